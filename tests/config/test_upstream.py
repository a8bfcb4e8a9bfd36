"""proxy/config/upstream.py without presets: endpoints, tenants, clients, and the [alerts] beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config import AlertsConfig, Config, MailboxLimits, OAuth2Config
from proxy.config.reader import load
from proxy.errors import ConfigError

BASE = '[[listen]]\nprotocol = "imap"\naddress = "127.0.0.1:0"\ntls = "none"\n'
UPSTREAM = '[upstream.one]\nimap = "imaps://h.example"\n'
CLIENT = '[upstream.one.oauth2]\nclient_id = "id"\n'
TOKEN_URL = 'token_url = "https://login.example.com/token"\n'


def read(folder: Path, text: str) -> Config:
    (folder / "gatepost.toml").write_text(BASE + text, encoding="utf-8")
    return load(folder / "gatepost.toml")


def oauth2(folder: Path, keys: str) -> OAuth2Config:
    found = read(folder, UPSTREAM + CLIENT + keys).upstreams["one"].oauth2
    assert found is not None
    return found


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    line = str(caught.value)
    assert str(folder / "gatepost.toml") in line
    assert line.isprintable()
    assert caught.value.remedy
    return line


def test_every_key_of_oauth2(tmp_path):
    found = oauth2(
        tmp_path,
        TOKEN_URL
        + 'client_certificate = "c.pem"\nclient_key = "file:k.pem"\nscopes = ["a", "b"]\ntenant = "t.example"\n'
        'authorize_url = "https://login.example.com/{tenant}/authorize?a=b"\ndevice_url = "https://l.example/{tenant}"\n'
        'issuer = "https://login.example.com"\nredirect_url = "http://localhost:8400/back"\n'
        'grant = "client_credentials"\nauthorize_parameters = { prompt = "consent", hd = "x" }\n',
    )
    assert found.client_certificate == tmp_path / "c.pem"
    assert str(found.client_key) == f"file:{tmp_path}/k.pem"
    assert found.client_secret is None
    assert found.scopes == ("a", "b")
    assert found.tenant == "t.example"
    assert found.authorize_url == "https://login.example.com/t.example/authorize?a=b"
    assert found.device_url == "https://l.example/t.example"
    assert found.issuer == "https://login.example.com"
    assert found.redirect_url == "http://localhost:8400/back"
    assert found.grant == "client_credentials"
    assert found.authorize_parameters == (("prompt", "consent"), ("hd", "x"))
    hash(read(tmp_path, UPSTREAM + CLIENT + TOKEN_URL).upstreams["one"])  # TLS contexts are cached by it


def test_issuer_alone_is_enough(tmp_path):
    found = oauth2(tmp_path, 'issuer = "https://login.example.com/realms/mail"\n')
    assert found == OAuth2Config("id", "", issuer="https://login.example.com/realms/mail")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:0/",
        "http://localhost:0",
        "http://[::1]:0/x",
        "http://127.0.0.1:8400/",
        "https://gate.example/cb",
    ],
)
def test_redirect(tmp_path, url):
    assert oauth2(tmp_path, TOKEN_URL + f'redirect_url = "{url}"\n').redirect_url == url


@pytest.mark.parametrize(
    "url",
    [
        "http://gate.example/cb",
        "http://gate.example:0/cb",
        "https://gate.example:0/cb",
        "https://localhost:0/",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:0/#x",
        "http://ann:hunter2@127.0.0.1:0/",
        "com.example:/back",
        "urn:ietf:wg:oauth:2.0:oob",
        "oob",
    ],
)
def test_broken_redirect(tmp_path, url):
    line = refusal(tmp_path, UPSTREAM + CLIENT + TOKEN_URL + f'redirect_url = "{url}"\n')
    assert "[upstream.one.oauth2] redirect_url" in line
    assert "hunter2" not in line


@pytest.mark.parametrize("key", ["authorize_url", "token_url", "device_url", "issuer"])
@pytest.mark.parametrize(
    "url",
    [
        "http://login.example.com/x",
        "ftp://127.0.0.1/",
        "https:///x",
        "https://login.example.com/x#y",
        "https://ann:hunter2@login.example.com/x",
        "https://login.example.com/{realm}/x",
        "https://login.example.com/{tenant}/x",
        "https://login.example.com/}{",
    ],
)
def test_broken_endpoint(tmp_path, key, url):
    rest = "" if key == "token_url" else TOKEN_URL
    line = refusal(tmp_path, UPSTREAM + CLIENT + rest + f'{key} = "{url}"\n')
    assert f"[upstream.one.oauth2] {key}" in line
    assert "hunter2" not in line


@pytest.mark.parametrize("key", ["authorize_url", "token_url", "device_url", "issuer"])
def test_endpoint_in_clear_text_on_loopback(tmp_path, key):
    rest = "" if key == "token_url" else TOKEN_URL
    assert getattr(oauth2(tmp_path, rest + f'{key} = "http://127.0.0.1:9/x"\n'), key) == "http://127.0.0.1:9/x"


@pytest.mark.parametrize(
    "tenant", ["a/b", "..", "a.", "-a", "{tenant}", "a b", "a?b", "x" * 254, "\u00e9.example", "a%2fb"]
)
def test_tenant_that_would_change_the_address(tmp_path, tenant):
    keys = f'tenant = "{tenant}"\ntoken_url = "https://login.example.com/{{tenant}}/token"\n'
    assert "tenant: is no tenant" in refusal(tmp_path, UPSTREAM + CLIENT + keys)


SECRET = 'client_secret = "env:S"\n'
PAIR = 'client_certificate = "c.pem"\nclient_key = "file:k.pem"\n'

# What follows client_id and token_url; what the line has to name.
BROKEN = {
    "tenant for nothing": ('tenant = "a"\n', "tenant: is in none of the addresses"),
    "certificate without key": ('client_certificate = "c.pem"\n', "client_key: is missing beside client_certificate"),
    "key without certificate": ('client_key = "env:K"\n', "client_certificate: is missing beside client_key"),
    "secret and certificate": (SECRET + PAIR, "client_secret: is not used beside client_key", "remove one"),
    "key itself": ('client_certificate = "c.pem"\nclient_key = "hunter2"\n', "client_key: must be", "never the"),
    "app without proof": ('grant = "client_credentials"\n', "client_secret: is missing", "client_certificate"),
    "service account unused": (
        'service_account = "env:S"\n',
        "service_account: is not used",
        'grant = "service_account"',
    ),
    "service account missing": ('grant = "service_account"\n', "service_account: is missing", "json"),
    "client of a service account": (
        'grant = "service_account"\nservice_account = "env:S"\n',
        "client_id: is not used",
        "remove it",
    ),
    "issuer with a query": ('issuer = "https://login.example.com/?a=b"\n', "issuer: has a query"),
    "our own parameter": ('authorize_parameters = { state = "x" }\n', "authorize_parameters: state is Gatepost's own"),
    "parameter of numbers": ("authorize_parameters = { a = 1 }\n", "authorize_parameters a: is a number"),
    "empty parameter": ('authorize_parameters = { a = "" }\n', "authorize_parameters a: is empty"),
    "parameters as a list": ('authorize_parameters = ["a"]\n', "authorize_parameters: is a list", "{ name ="),
    "unknown key": ('token_uri = "x"\n', "token_uri: unknown key", "did you mean token_url?"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_oauth2_is_refused_with_key_and_remedy(tmp_path, case):
    keys, *named = BROKEN[case]
    line = refusal(tmp_path, UPSTREAM + CLIENT + TOKEN_URL + keys)
    assert "[upstream.one.oauth2]" in line
    for words in named:
        assert words in line
    assert "hunter2" not in line


def test_limits_mechanism_and_extensions_without_a_preset(tmp_path):
    keys = (
        'limits = { imap = 2 }\nmechanism = "OAUTHBEARER"\nimap_extensions = ["IDLE", "THREAD=REFS"]\n'
        'smtp_extensions = ["SIZE 1000", "DSN"]\n'
    )
    upstream = read(tmp_path, UPSTREAM + keys + CLIENT + TOKEN_URL).upstreams["one"]
    assert upstream.limits == MailboxLimits(imap=2, smtp=0)
    assert upstream.mechanism == "OAUTHBEARER"
    assert upstream.extensions("imap") == ("IDLE", "THREAD=REFS")
    assert upstream.extensions("smtp") == ("SIZE 1000", "DSN")


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ('cloud = "china"\n', "cloud: is nothing without a preset"),
        ('imap_extensions = ["IDLE ACL"]\n', "imap_extensions: holds something"),
        ('imap_extensions = ["ID]"]\n', "imap_extensions: holds something"),
        ('smtp_extensions = ["SIZE  1"]\n', "smtp_extensions: holds something"),
        ('smtp_extensions = ["\u00dcTF8"]\n', "smtp_extensions: holds something"),
        ('mechanism = ""\n', "mechanism: is empty"),
        ("limits = { imap = 1.5 }\n", "limits imap: is a fraction"),
    ],
)
def test_broken_upstream(tmp_path, keys, named):
    assert f"[upstream.one] {named}" in refusal(tmp_path, UPSTREAM + keys + CLIENT + TOKEN_URL)


def test_mechanism_for_tokens_is_refused_for_passwords(tmp_path):
    line = refusal(tmp_path, UPSTREAM + 'auth = "password"\nmechanism = "XOAUTH2"\n')
    assert 'mechanism: is not used with auth = "password"' in line


ONE = UPSTREAM + 'auth = "password"\n'


def test_nobody_is_alerted_by_default(tmp_path):
    assert read(tmp_path, ONE).alerts == AlertsConfig((), None)


def test_alerts(tmp_path):
    text = '[alerts]\ncommand = ["bin/tell", "-x", "-x", " "]\nwebhook = "https://chat.example.com/hooks/hunter2?a=b"\n'
    alerts = read(tmp_path, ONE + text).alerts
    assert alerts.command == (f"{tmp_path}/bin/tell", "-x", "-x", " ")
    assert alerts.webhook == "https://chat.example.com/hooks/hunter2?a=b"
    assert "hunter2" not in repr(alerts)
    alerts = read(tmp_path, ONE + '[alerts]\ncommand = ["/bin/true"]\nwebhook = "http://[::1]:8/x"\n').alerts
    assert alerts == AlertsConfig(("/bin/true",), "http://[::1]:8/x")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('command = "/bin/true"\n', "command: is a string"),
        ("command = []\n", "command: is empty"),
        ("command = [1]\n", "command: holds something that is no string"),
        ('command = ["/bin/true", ""]\n', "command: holds something that is no string"),
        ('command = ["/bin/true", "a\\nb"]\n', "command: holds something that is no string"),
        ('command = ["mail", "root"]\n', "command: does not start with a file name"),
        ('webhook = "http://chat.example.com/hunter2"\n', "webhook: would send alerts in clear text"),
        ('webhook = "hunter2"\n', "webhook: is no https:// address"),
        ('email = "root"\n', "email: unknown key"),
    ],
)
def test_broken_alerts(tmp_path, text, named):
    line = refusal(tmp_path, ONE + "[alerts]\n" + text)
    assert f"[alerts] {named}" in line
    assert "hunter2" not in line
