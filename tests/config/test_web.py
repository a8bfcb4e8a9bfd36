"""[web]: what is read, what follows from what, and what is refused."""

from __future__ import annotations

import dataclasses
import tomllib
from ipaddress import ip_network

import pytest

from proxy.config import WebConfig
from proxy.config.reader import load
from tests.config.test_reader import EXAMPLE, LISTEN, read, refusal

UPSTREAM = (
    '[upstream.one]\nimap = "imaps://mail.example.com"\n'
    '[upstream.one.oauth2]\nclient_id = "id"\nissuer = "https://login.example.com"\n'
)
TWO = UPSTREAM + UPSTREAM.replace(".one", ".two")
ENTRA = UPSTREAM.replace("https://login.example.com", "https://login.microsoftonline.com/organizations/v2.0")
TENANT = "11111111-2222-3333-4444-555555555555"
LOCAL = '[web]\naddress = "127.0.0.1:8080"\npublic_url = "http://127.0.0.1:8080/"\n'
PROXIED = '[web]\naddress = "10.0.0.1:8080"\npublic_url = "https://Mail.example.com"\ntrusted_proxies = ["10.0.0.9"]\n'
TLS = '[tls]\ncertificate = "cert.pem"\nkey = "key.pem"\n'


def web(folder, text, upstream=UPSTREAM) -> WebConfig:
    found = read(folder, LISTEN + upstream + text).web
    assert found is not None
    return found


def test_without_it_there_is_no_page(tmp_path):
    assert read(tmp_path, LISTEN + UPSTREAM).web is None


def test_little_is_enough(tmp_path):
    found = web(tmp_path, LOCAL)
    assert (found.public_url, found.redirect_url) == ("http://127.0.0.1:8080", "http://127.0.0.1:8080/signed-in")
    assert (found.upstream, found.mail_host, found.certificate) == ("one", "127.0.0.1", None)
    assert found.require_mfa
    assert found.amr == ("mfa",)
    assert not found.create_accounts


def test_example_shows_every_key_and_the_defaults():
    written = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))["web"]
    names = {field.name for field in dataclasses.fields(WebConfig)}
    assert set(written) == names - {"host", "port", "is_entra"} | {"address"}
    default, shown = WebConfig("", 0, "", ""), load(EXAMPLE).web
    assert shown is not None
    for name in (
        *("require_mfa", "amr", "mfa_enforced_by_provider", "fresh_s", "session_s", "group_claim", "create_accounts"),
    ):
        assert getattr(shown, name) == getattr(default, name)


def test_the_certificate_is_that_of_tls_unless_it_has_its_own(tmp_path):
    https = '[web]\naddress = "0.0.0.0:8443"\npublic_url = "https://mail.example.com"\n'
    assert web(tmp_path, TLS + https).certificate == tmp_path / "cert.pem"
    own = https + 'certificate = "web.pem"\nkey = "web.key"\n'
    assert web(tmp_path, TLS + own).certificate == tmp_path / "web.pem"
    assert web(tmp_path, TLS + PROXIED).certificate is None
    assert "needs a certificate" in refusal(tmp_path, LISTEN + UPSTREAM + https)
    assert "missing beside" in refusal(tmp_path, LISTEN + UPSTREAM + https + 'certificate = "web.pem"\n')


def test_a_proxy_is_a_network(tmp_path):
    assert web(tmp_path, PROXIED).trusted_proxies == (ip_network("10.0.0.9/32"),)
    assert web(tmp_path, PROXIED).public_url == "https://mail.example.com"


def test_proxies_are_networks_in_their_one_form(tmp_path):
    named = '["10.0.0.0/8", "::FFFF:10.0.0.0/104", "::ffff:192.0.2.7", "2001:DB8:0::/32"]'
    found = web(tmp_path, PROXIED.replace('["10.0.0.9"]', named)).trusted_proxies
    assert found == (ip_network("10.0.0.0/8"), ip_network("192.0.2.7/32"), ip_network("2001:db8::/32"))


@pytest.mark.parametrize("issuer", ["login.microsoftonline.com", "login.microsoftonline.us", "x.ciamlogin.com"])
def test_entra_is_known_and_needs_its_tenants(tmp_path, issuer):
    upstream = ENTRA.replace("login.microsoftonline.com", issuer)
    found = web(tmp_path, LOCAL + f'tenants = ["{TENANT.upper()}"]\n', upstream)
    assert (found.is_entra, found.tenants) == (True, (TENANT,))
    assert "tenants: is missing" in refusal(tmp_path, LISTEN + upstream + LOCAL)


def test_the_upstream_is_the_only_one_that_fits_or_is_named(tmp_path):
    assert web(tmp_path, LOCAL + 'upstream = "two"\n', TWO).upstream == "two"
    assert "one, two could be meant" in refusal(tmp_path, LISTEN + TWO + LOCAL)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('addres = "x"\n', "did you mean address?"),
        ("require_mfa = true\namr = []\n", "nothing counts as MFA"),
        ("create_accounts = true\n", "needs to know for whom"),
        ('domains = ["@x"]\n', "is no domain"),
        ('tenants = ["example.com"]\n', "is no tenant's id"),
        ('trusted_proxies = ["proxy.local"]\n', '"proxy.local" is no network'),
        ('trusted_proxies = ["10.0.0.1/8"]\n', "did you mean 10.0.0.0/8?"),
        ('trusted_proxies = ["fe80::1%eth0"]\n', "is no network"),
        ('upstream = "none"\n', "there is no [upstream.none]"),
        ("fresh_s = 5\n", "out of range"),
        ("session_s = 1\n", "out of range"),
    ],
)
def test_mistakes_are_refused(tmp_path, lines, said):
    assert said in refusal(tmp_path, LISTEN + UPSTREAM + LOCAL + lines)


def test_clear_text_is_for_loopback(tmp_path):
    assert "in clear text" in refusal(tmp_path, LISTEN + UPSTREAM + LOCAL.replace("//127.0.0.1", "//mail.example.com"))
    assert "in clear text" in refusal(tmp_path, LISTEN + UPSTREAM + LOCAL.replace('"127.0.0.1', '"0.0.0.0'))
    assert "more than a host" in refusal(tmp_path, LISTEN + UPSTREAM + LOCAL.replace("8080/", "8080/mail"))


def test_entras_email_is_never_the_mailbox(tmp_path):
    lines = f'tenants = ["{TENANT}"]\nmailbox_claim = "email"\n'
    assert "may be set to anything" in refusal(tmp_path, LISTEN + ENTRA + LOCAL + lines)


def test_nobody_signs_in_where_there_is_no_issuer(tmp_path):
    upstream = UPSTREAM.replace('issuer = "https://login.example.com"', 'token_url = "https://login.example.com/t"')
    assert "no upstream has oauth2 and an issuer" in refusal(tmp_path, LISTEN + upstream + LOCAL)
    named = LOCAL + 'upstream = "one"\n'
    assert "nobody signs in at [upstream.one]" in refusal(tmp_path, LISTEN + upstream + named)
