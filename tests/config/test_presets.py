"""proxy/config/presets.py and config/providers: each file whole and consistent, each preset usable as it stands."""

from __future__ import annotations

import itertools
import re
import tomllib
from pathlib import Path

import pytest

from proxy.config import GRANTS, PROTOCOLS, Config, Endpoint, MailboxLimits, OAuth2Config, Tls, UpstreamConfig, presets
from proxy.config.presets import CLOUDS, preset, preset_names
from proxy.config.reader import load
from proxy.config.upstream import _KEYS, _OAUTH2_KEYS
from proxy.errors import ConfigError
from proxy.wire.extensions import common_esmtp, common_imap

FILES = Path(__file__).parents[2] / "config" / "providers"
NAMES = ("fastmail", "gmail", "google-workspace", "microsoft365", "outlook", "yahoo")
LISTEN = '[[listen]]\nprotocol = "imap"\naddress = "127.0.0.1:0"\ntls = "none"\n'
TENANT = "11111111-2222-3333-4444-555555555555"
CLIENT = {
    "user": 'client_id = "id"\nclient_secret = "env:S"\n',
    "client_credentials": f'client_id = "id"\nclient_secret = "env:S"\ntenant = "{TENANT}"\n',
    "service_account": 'service_account = "env:S"\n',
}
EVERY = [
    (name, cloud, grant)
    for name in NAMES
    for cloud, grant in itertools.product(("global", *preset(name).clouds), preset(name).grants)
]


def read(folder: Path, text: str) -> Config:
    (folder / "gatepost.toml").write_text(LISTEN + text, encoding="utf-8")
    return load(folder / "gatepost.toml")


def of(folder: Path, name: str, beside: str = "", oauth2: str = CLIENT["user"]) -> UpstreamConfig:
    return read(folder, f'[upstream.one]\npreset = "{name}"\n{beside}[upstream.one.oauth2]\n{oauth2}').upstreams["one"]


def tokens_of(upstream: UpstreamConfig) -> OAuth2Config:
    assert upstream.oauth2 is not None
    return upstream.oauth2


def refusal(folder: Path, name: str, beside: str = "", oauth2: str = CLIENT["user"]) -> str:
    with pytest.raises(ConfigError) as caught:
        of(folder, name, beside, oauth2)
    assert str(folder / "gatepost.toml") in str(caught.value)
    assert caught.value.remedy
    return str(caught.value)


def test_presets_are_those_that_are_promised():
    assert preset_names() == NAMES
    assert {file.name for file in FILES.iterdir()} == {f"{name}.toml" for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_file_has_no_key_that_nobody_reads(name):
    """The reader refuses an operator's unknown keys; a preset's it would never see."""
    written = tomllib.loads((FILES / f"{name}.toml").read_text(encoding="utf-8"))
    assert set(written) <= {*_KEYS, "grants", "clouds"} - {"preset", "cloud", "auth", "tls_ca"}
    for table in (written, *written.get("clouds", {}).values()):
        assert set(table) <= {*_KEYS, "grants", "clouds"}
        assert set(table["oauth2"]) <= {*_OAUTH2_KEYS} - {"client_id", "client_secret", "grant", "scopes"}
        assert set(table["grants"]) <= set(GRANTS)
        for grant in table["grants"].values():
            assert set(grant) <= {"scopes", "shared_tenants"}
    assert "user" in written["grants"]
    assert set(written.get("clouds", {})) <= set(CLOUDS) - {"global"}


@pytest.mark.parametrize(("name", "cloud", "grant"), EVERY)
def test_preset_needs_only_who_the_client_is(name, cloud, grant, tmp_path):
    beside = "" if cloud == "global" else f'cloud = "{cloud}"\n'
    upstream = of(tmp_path, name, beside, CLIENT[grant] + f'grant = "{grant}"\n')
    tokens = tokens_of(upstream)
    assert upstream.preset == name
    assert upstream.auth == "oauth2"
    assert upstream.mechanism
    for protocol in PROTOCOLS:
        endpoint = upstream.endpoint(protocol)
        assert endpoint is not None
        assert endpoint.tls is not Tls.NONE
        assert 1 <= upstream.limits.of(protocol) <= 15
        assert upstream.extensions(protocol)
    assert tokens.grant == grant
    assert tokens.scopes
    assert tokens.authorize_url is not None
    for url in (tokens.token_url, tokens.authorize_url, tokens.device_url, tokens.issuer):
        assert url is None or re.fullmatch(r"https://[a-z0-9.]+(/[A-Za-z0-9/._-]*)?", url)
    # A token is for one audience: none of another cloud's hosts may be among the scopes.
    hosts = {scope.split("/")[2] for scope in tokens.scopes if scope.startswith("https://")}
    assert len(hosts) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_extensions_are_ones_that_may_be_offered(name, tmp_path):
    upstream = of(tmp_path, name)
    assert common_imap([upstream.imap_extensions]) == upstream.imap_extensions
    assert set(common_esmtp([upstream.smtp_extensions])) == set(upstream.smtp_extensions)


def test_microsoft365_as_it_stands(tmp_path):
    upstream = of(tmp_path, "microsoft365")
    assert upstream.imap == Endpoint("outlook.office365.com", 993, Tls.IMPLICIT)
    assert upstream.smtp == Endpoint("smtp.office365.com", 587, Tls.STARTTLS)  # it has no implicit TLS
    assert upstream.limits == MailboxLimits(imap=8, smtp=3)
    assert upstream.mechanism == "XOAUTH2"  # the only one it knows
    assert not {"CONDSTORE", "ENABLE", "COMPRESS=DEFLATE"} & set(upstream.imap_extensions)
    tokens = tokens_of(upstream)
    assert tokens.token_url == "https://login.microsoftonline.com/organizations/oauth2/v2.0/token"
    assert tokens.device_url == "https://login.microsoftonline.com/organizations/oauth2/v2.0/devicecode"
    assert "https://outlook.office.com/IMAP.AccessAsUser.All" in tokens.scopes
    assert "offline_access" in tokens.scopes


def test_app_of_a_tenant_asks_for_what_it_was_given(tmp_path):
    tokens = tokens_of(
        of(tmp_path, "microsoft365", "", CLIENT["client_credentials"] + 'grant = "client_credentials"\n')
    )
    assert tokens.scopes == ("https://outlook.office365.com/.default",)
    assert tokens.token_url == f"https://login.microsoftonline.com/{TENANT}/oauth2/v2.0/token"


@pytest.mark.parametrize("tenant", ["", 'tenant = "common"\n', 'tenant = "Organizations"\n'])
def test_app_without_a_tenant_of_its_own_is_refused(tmp_path, tenant):
    client = 'client_id = "id"\nclient_secret = "env:S"\ngrant = "client_credentials"\n'
    line = refusal(tmp_path, "microsoft365", "", client + tenant)
    assert "tenant" in line
    assert "needs your tenant's id" in line


@pytest.mark.parametrize(
    ("cloud", "login", "mail"),
    [
        ("china", "login.partner.microsoftonline.cn", ("partner.outlook.cn", "smtp.partner.outlook.cn")),
        ("usgov", "login.microsoftonline.us", ("outlook.office365.us", "outlook.office365.us")),
        ("usgov-dod", "login.microsoftonline.us", ("outlook-dod.office365.us", "outlook-dod.office365.us")),
    ],
)
def test_nothing_of_the_global_cloud_is_left_in_a_sovereign_one(cloud, login, mail, tmp_path):
    upstream = of(tmp_path, "microsoft365", f'cloud = "{cloud}"\n')
    tokens = tokens_of(upstream)
    assert (upstream.imap, upstream.smtp) == (
        Endpoint(mail[0], 993, Tls.IMPLICIT),
        Endpoint(mail[1], 587, Tls.STARTTLS),
    )
    for url in (tokens.authorize_url, tokens.token_url, tokens.device_url, tokens.issuer):
        assert url is not None
        assert url.startswith(f"https://{login}/organizations/")
    assert f"https://{mail[0]}/IMAP.AccessAsUser.All" in tokens.scopes
    assert not [scope for scope in tokens.scopes if "office.com" in scope]


def test_personal_microsoft_mailboxes_sign_in_as_consumers(tmp_path):
    upstream = of(tmp_path, "outlook")
    assert tokens_of(upstream).token_url.startswith("https://login.microsoftonline.com/consumers/")
    assert upstream.smtp == Endpoint("smtp-mail.outlook.com", 587, Tls.STARTTLS)


def test_google_is_asked_for_a_refresh_token_every_time(tmp_path):
    for name in ("gmail", "google-workspace"):
        tokens = tokens_of(of(tmp_path, name))
        assert dict(tokens.authorize_parameters) == {"access_type": "offline", "prompt": "consent"}
        assert tokens.device_url is None  # Google does not allow the scope for mail there


def test_service_account_of_workspace(tmp_path):
    tokens = tokens_of(of(tmp_path, "google-workspace", "", 'grant = "service_account"\nservice_account = "file:k"\n'))
    assert str(tokens.service_account) == f"file:{tmp_path}/k"
    assert tokens.client_id == ""
    assert tokens.scopes == ("https://mail.google.com/",)


def test_every_key_beside_a_preset_overrides_it(tmp_path):
    upstream = of(
        tmp_path,
        "gmail",
        'imap = "imap://imap.example.com"\nlimits = { smtp = 1 }\nmechanism = "OAUTHBEARER"\nsmtp_extensions = []\n',
        CLIENT["user"] + 'scopes = ["mine"]\ntoken_url = "https://login.example.com/t"\n'
        'authorize_parameters = { hd = "example.com" }\n',
    )
    assert upstream.imap == Endpoint("imap.example.com", 143, Tls.STARTTLS)
    assert upstream.smtp == Endpoint("smtp.gmail.com", 465, Tls.IMPLICIT)
    assert upstream.limits == MailboxLimits(imap=10, smtp=1)
    assert upstream.mechanism == "OAUTHBEARER"
    assert upstream.smtp_extensions == ()
    assert "X-GM-EXT-1" in upstream.imap_extensions
    tokens = tokens_of(upstream)
    assert tokens.scopes == ("mine",)
    assert tokens.token_url == "https://login.example.com/t"
    assert tokens.authorize_url == "https://accounts.google.com/o/oauth2/v2/auth"
    assert dict(tokens.authorize_parameters)["hd"] == "example.com"
    assert dict(tokens.authorize_parameters)["access_type"] == "offline"


def test_preset_with_passwords_is_its_servers_and_limits(tmp_path):
    upstream = read(tmp_path, '[upstream.one]\npreset = "fastmail"\nauth = "password"\n').upstreams["one"]
    assert upstream.oauth2 is None
    assert upstream.mechanism == ""
    assert upstream.imap == Endpoint("imap.fastmail.com", 993, Tls.IMPLICIT)
    assert upstream.limits == MailboxLimits(imap=8, smtp=3)


def test_two_upstreams_of_one_preset_do_not_share_what_they_override(tmp_path):
    text = "".join(
        f'[upstream.{name}]\npreset = "microsoft365"\ncloud = "{cloud}"\n'
        f'[upstream.{name}.oauth2]\nclient_id = "{name}"\n'
        for name, cloud in (("one", "china"), ("two", "global"), ("three", "china"))
    )
    upstreams = read(tmp_path, text).upstreams
    assert upstreams["one"].imap == upstreams["three"].imap
    assert upstreams["two"].imap == Endpoint("outlook.office365.com", 993, Tls.IMPLICIT)
    assert [tokens_of(one).client_id for one in upstreams.values()] == ["one", "two", "three"]


def test_without_a_preset_there_are_no_limits(tmp_path):
    upstream = read(tmp_path, '[upstream.one]\nimap = "imaps://h"\nauth = "password"\n').upstreams["one"]
    assert (upstream.preset, upstream.limits, upstream.mechanism) == ("", MailboxLimits(0, 0), "")
    assert upstream.imap_extensions == upstream.smtp_extensions == ()


# What stands in [upstream.one] and in its oauth2; what the line has to name.
REFUSED = {
    "unknown preset": ("hotmail", "", CLIENT["user"], "[upstream.one] preset", '"outlook" or "yahoo"'),
    "path as a preset": ("../../etc/passwd", "", CLIENT["user"], "[upstream.one] preset", "use "),
    "unknown cloud": ("microsoft365", 'cloud = "germany"\n', CLIENT["user"], "[upstream.one] cloud", '"usgov-dod"'),
    "cloud of another provider": ("gmail", 'cloud = "china"\n', CLIENT["user"], 'preset "gmail" has no "china"'),
    "personal mailboxes elsewhere": ("outlook", 'cloud = "usgov"\n', CLIENT["user"], 'preset "outlook" has no "usgov"'),
    "grant it does not have": (
        "outlook",
        "",
        CLIENT["client_credentials"] + 'grant = "client_credentials"\n',
        '[upstream.one.oauth2] grant: preset "outlook" has no "client_credentials"',
        'use "user"',
    ),
    "service account of consumers": (
        "gmail",
        "",
        'grant = "service_account"\nservice_account = "env:S"\n',
        'has no "service_account"',
    ),
    "tenant of a provider without": ("gmail", "", CLIENT["client_credentials"], "tenant: is in none of the addresses"),
    "no client": ("gmail", "", 'client_secret = "env:S"\n', "client_id: is missing"),
    "limit out of range": ("gmail", "limits = { imap = -1 }\n", CLIENT["user"], "[upstream.one] limits imap: -1"),
    "unknown limit": ("gmail", "limits = { pop3 = 1 }\n", CLIENT["user"], "[upstream.one] limits pop3: unknown key"),
    "limits are a number": ("gmail", "limits = 8\n", CLIENT["user"], "[upstream.one] limits: is a number"),
    "mechanism": ("gmail", 'mechanism = "PLAIN"\n', CLIENT["user"], "mechanism", '"XOAUTH2" or "OAUTHBEARER"'),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_beside_a_preset(case, tmp_path):
    name, beside, oauth2, *named = REFUSED[case]
    line = refusal(tmp_path, name, beside, oauth2)
    for words in named:
        assert words in line


def test_preset_without_oauth2_asks_for_the_client(tmp_path):
    with pytest.raises(ConfigError, match=r"oauth2: is missing; add \[upstream\.one\.oauth2\]"):
        read(tmp_path, '[upstream.one]\npreset = "gmail"\n')


def test_installation_without_presets_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(presets, "_SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(presets, "_CHECKOUT", tmp_path / "checkout")
    with pytest.raises(ConfigError, match="has no presets; install Gatepost again"):
        preset_names()


def test_presets_go_into_the_wheel():
    """Where presets.py looks first; the example lies beside them."""
    project = tomllib.loads((FILES.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included["config/providers"] == str(presets._SHIPPED.relative_to(FILES.parents[1]))
