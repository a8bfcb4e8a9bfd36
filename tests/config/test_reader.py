"""proxy/config/reader.py: what is read, what is refused, and that every refusal names file, key and remedy."""

from __future__ import annotations

import dataclasses
import errno
import os
import tomllib
from pathlib import Path

import pytest

from proxy.config import Config, Endpoint, KeysConfig, LimitsConfig, LogConfig, OAuth2Config, StoreConfig, Tls
from proxy.config.model import AlertsConfig, ListenConfig, MetricsConfig, TlsConfig, UpstreamConfig, WorkersConfig
from proxy.config.reader import MAX_FILE_BYTES, load
from proxy.errors import ConfigError

EXAMPLE = Path(__file__).parents[2] / "config" / "gatepost.example.toml"

LISTEN = '[[listen]]\nprotocol = "imap"\naddress = "127.0.0.1:1143"\ntls = "none"\n'
UPSTREAM = '[upstream.one]\nimap = "imaps://mail.example.com"\nsmtp = "smtp://mail.example.com"\nauth = "password"\n'
OAUTH2 = (
    '[upstream.one]\nimap = "imaps://mail.example.com"\n'
    '[upstream.one.oauth2]\nclient_id = "id"\ntoken_url = "https://login.example.com/token"\n'
)


def read(folder: Path, text: str) -> Config:
    file = folder / "gatepost.toml"
    file.write_text(text, encoding="utf-8")
    return load(file)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    line = str(caught.value)
    assert "\n" not in line
    assert line.isprintable()
    assert caught.value.remedy
    assert str(folder / "gatepost.toml") in caught.value.problem
    return line


def test_example_shows_the_defaults():
    config = load(EXAMPLE)
    assert config.store == StoreConfig()
    assert config.keys == KeysConfig()
    assert config.tls.minimum == TlsConfig().minimum
    assert config.log == LogConfig()
    assert config.workers == WorkersConfig(node="mail1")  # its default is another on every host
    assert config.limits == LimitsConfig()
    assert config.metrics == MetricsConfig(("127.0.0.1", 9187))  # its default is nowhere
    office, company = config.upstreams["office"], config.upstreams["company"]
    assert office.oauth2 is not None
    assert office.oauth2.grant == OAuth2Config("", "").grant
    assert company.auth == UpstreamConfig("x").auth
    assert company.limits == UpstreamConfig("x").limits
    assert company.oauth2 is not None
    assert company.oauth2.redirect_url == OAuth2Config("", "").redirect_url
    assert [listener.insecure for listener in config.listeners] == [False, False, False]
    assert [listener.proxy_protocol_from for listener in config.listeners] == [(), (), ()]
    assert [listener.minimum_tls for listener in config.listeners] == [TlsConfig().minimum, None, None]


def test_example_shows_every_key_of_the_model():
    written = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))

    def names(model: type) -> set[str]:
        return {field.name for field in dataclasses.fields(model)}

    assert set(written) == {"listen", "upstream"} | names(Config) - {"path", "text", "listeners", "upstreams"}
    for section, model in {
        "store": StoreConfig,
        "keys": KeysConfig,
        "tls": TlsConfig,
        "log": LogConfig,
        "workers": WorkersConfig,
        "limits": LimitsConfig,
        "alerts": AlertsConfig,
        "metrics": MetricsConfig,
    }.items():
        assert set(written[section]) == names(model)
    assert set(written["listen"][0]) == names(ListenConfig) - {"host", "port"} | {"address"}
    in_upstreams = set[str]().union(*written["upstream"].values())
    assert in_upstreams == names(UpstreamConfig) - {"name"} | {"cloud"}
    in_oauth2 = set[str]().union(*(one.get("oauth2", {}) for one in written["upstream"].values()))
    assert in_oauth2 == names(OAuth2Config)


def test_smallest_file_gets_every_default(tmp_path):
    config = read(tmp_path, LISTEN + UPSTREAM)
    assert config.path == tmp_path / "gatepost.toml"
    assert config.listeners == (ListenConfig("imap", "127.0.0.1", 1143, Tls.NONE, ("one",)),)
    assert config.upstreams["one"] == UpstreamConfig(
        "one",
        Endpoint("mail.example.com", 993, Tls.IMPLICIT),
        Endpoint("mail.example.com", 587, Tls.STARTTLS),
        auth="password",
    )
    assert config.limits == LimitsConfig()
    assert config.tls == TlsConfig()


def test_relative_names_start_at_the_file(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    text = (
        '[store]\nurl = "sqlite:///data/gatepost.db"\n[keys]\nmaster = "file:master.key"\n'
        '[tls]\ncertificate = "cert.pem"\nkey = "keys/key.pem"\n' + LISTEN + OAUTH2 + 'client_secret = "file:s"\n'
    )
    (tmp_path / "gatepost.toml").write_text(text.replace("[upstream.one]\n", '[upstream.one]\ntls_ca = "ca.pem"\n'))
    config = load(Path("../gatepost.toml"))
    assert config.path == tmp_path / "gatepost.toml"
    assert config.store.url == f"sqlite:///{tmp_path}/data/gatepost.db"
    assert str(config.keys.master) == f"file:{tmp_path}/master.key"
    assert config.tls.certificate == tmp_path / "cert.pem"
    assert config.tls.key == tmp_path / "keys" / "key.pem"
    assert config.upstreams["one"].tls_ca == tmp_path / "ca.pem"
    oauth2 = config.upstreams["one"].oauth2
    assert oauth2 is not None
    assert str(oauth2.client_secret) == f"file:{tmp_path}/s"


def test_absolute_database_stays(tmp_path):
    config = read(tmp_path, '[store]\nurl = "sqlite:////var/x.db"\n' + LISTEN + UPSTREAM)
    assert config.store.url == "sqlite:////var/x.db"


def test_postgresql_stays(tmp_path):
    config = read(tmp_path, '[store]\nurl = "postgresql://gate@db/gatepost"\n' + LISTEN + UPSTREAM)
    assert config.store.url == "postgresql://gate@db/gatepost"


def test_listener_gets_all_upstreams_that_have_its_protocol(tmp_path):
    text = LISTEN.replace("imap", "smtp") + UPSTREAM + OAUTH2.replace("one", "two")
    assert read(tmp_path, text).listeners[0].upstreams == ("one",)
    assert read(tmp_path, LISTEN.replace("1143", "1144") + text).listeners[0].upstreams == ("one", "two")


def test_free_ports_may_be_asked_for_more_than_once(tmp_path):
    listen = LISTEN.replace("1143", "0")
    config = read(tmp_path, listen + listen + UPSTREAM)
    assert [listener.port for listener in config.listeners] == [0, 0]


def test_ipv6_listener_is_kept_in_canonical_form(tmp_path):
    listener = read(tmp_path, LISTEN.replace("127.0.0.1", "[0:0::1]") + UPSTREAM).listeners[0]
    assert (listener.host, listener.port) == ("::1", 1143)
    assert listener.name == "imap://[::1]:1143"


def test_clear_text_beyond_loopback_has_to_be_insisted_on(tmp_path):
    text = LISTEN.replace("127.0.0.1", "0.0.0.0")
    line = refusal(tmp_path, text + UPSTREAM)
    assert "[[listen]] #1 tls" in line
    assert "insecure = true" in line
    assert read(tmp_path, text + "insecure = true\n" + UPSTREAM).listeners[0].insecure


def test_byte_order_mark_is_no_error(tmp_path):
    assert read(tmp_path, "\ufeff" + LISTEN + UPSTREAM).listeners


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("imaps://h.example", Endpoint("h.example", 993, Tls.IMPLICIT)),
        ("imap://h.example", Endpoint("h.example", 143, Tls.STARTTLS)),
        ("imap://h.example:1143/", Endpoint("h.example", 1143, Tls.STARTTLS)),
        ("imaps://[2001:DB8::0:1]", Endpoint("2001:db8::1", 993, Tls.IMPLICIT)),
        ("IMAPS://[::1]:9993", Endpoint("::1", 9993, Tls.IMPLICIT)),
        ("imaps://127.0.0.1:9993", Endpoint("127.0.0.1", 9993, Tls.IMPLICIT)),
        ("imaps://bücher.example", Endpoint("bücher.example", 993, Tls.IMPLICIT)),
    ],
)
def test_imap_server(tmp_path, text, endpoint):
    config = read(tmp_path, LISTEN + f'[upstream.one]\nimap = "{text}"\nauth = "password"')
    assert config.upstreams["one"].imap == endpoint


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("smtps://h.example", Endpoint("h.example", 465, Tls.IMPLICIT)),
        ("smtp://h.example", Endpoint("h.example", 587, Tls.STARTTLS)),
        ("smtp://[::1]:25", Endpoint("::1", 25, Tls.STARTTLS)),
    ],
)
def test_smtp_server(tmp_path, text, endpoint):
    text = LISTEN.replace("imap", "smtp") + f'[upstream.one]\nsmtp = "{text}"\nauth = "password"'
    assert read(tmp_path, text).upstreams["one"].smtp == endpoint


@pytest.mark.parametrize(
    "url",
    [
        "imaps://",
        "mail.example.com:993",
        "smtp://mail.example.com",
        "https://mail.example.com",
        "imaps://a b",
        "imaps://mail.example.com:99999",
        "imaps://mail.example.com:0",
        "imaps://mail.example.com:x",
        "imaps://mail.example.com/INBOX",
        "imaps://mail.example.com?x",
        "imaps://mail.example.com#x",
        "imaps://ann:hunter2@mail.example.com",
        "imaps://[::1",
        "imaps://-;rm.example",
        "imaps://" + "a." * 127 + "example",
        "imaps://mail..example",
    ],
)
def test_broken_server_address(tmp_path, url):
    line = refusal(tmp_path, LISTEN + f'[upstream.one]\nimap = "{url}"\nauth = "password"')
    assert "[upstream.one] imap" in line
    assert "hunter2" not in line


@pytest.mark.parametrize(
    "url",
    ["https://login.example.com/token?x=1", "http://127.0.0.1:9000/token", "http://[::1]/t", "http://localhost/t"],
)
def test_token_endpoint(tmp_path, url):
    oauth2 = read(tmp_path, LISTEN + OAUTH2.replace("https://login.example.com/token", url)).upstreams["one"].oauth2
    assert oauth2 == OAuth2Config("id", url)


@pytest.mark.parametrize(
    "url",
    [
        "http://login.example.com/token",
        "http://localhost.example.com/token",
        "ftp://127.0.0.1/",
        "https://",
        "https:///token",
        "https://id:hunter2@login.example.com/token",
        "https://login.example.com/token#x",
        "https://login.example.com:0/token",
        "token",
    ],
)
def test_broken_token_endpoint(tmp_path, url):
    line = refusal(tmp_path, LISTEN + OAUTH2.replace("https://login.example.com/token", url))
    assert "[upstream.one.oauth2] token_url" in line
    assert "hunter2" not in line


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "993",
        ":993",
        "localhost:993",
        "::1:993",
        "[127.0.0.1]:993",
        "127.0.0.1:",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "127.0.0.1:9\u0663",
        "127.0.0.1:000993",
        "256.0.0.1:993",
        "[::1]",
        "*:993",
    ],
)
def test_broken_listen_address(tmp_path, address):
    line = refusal(tmp_path, LISTEN.replace("127.0.0.1:1143", address) + UPSTREAM)
    assert "[[listen]] #1 address" in line


# What is wrong in the file; what the line has to name, remedy included.
BROKEN = {
    "unknown section": ("[lsiten]\n", "lsiten", "unknown key", "did you mean listen?"),
    "later section": ("[pop3]\n", "pop3", "unknown key", "known here: store,"),
    "unknown key": (LISTEN + 'protcol = "imap"\n' + UPSTREAM, "[[listen]] #1 protcol", "did you mean protocol?"),
    "key of a later version": (LISTEN + 'maximum_tls = "1.2"\n' + UPSTREAM, "maximum_tls", "unknown key"),
    "key with a line end": ('"a\\nb" = 1\n', "a\\nb", "unknown key"),
    "unknown limit": ("[limits]\nconections = 1\n" + LISTEN + UPSTREAM, "[limits] conections", "mean connections?"),
    "pop3": (LISTEN.replace('"imap"', '"pop3"') + UPSTREAM, '#1 protocol: "pop3" is not known', 'use "imap" or "smtp"'),
    "no protocol": ('[[listen]]\naddress = "[::1]:1"\n' + UPSTREAM, "#1 protocol: is missing", '"imap" or "smtp"'),
    "no address": ('[[listen]]\nprotocol = "imap"\n' + UPSTREAM, "#1 address: is missing", "0.0.0.0:993"),
    "no tls": (LISTEN.replace('tls = "none"', "") + UPSTREAM, "#1 tls: is missing", '"starttls" or "none"'),
    "wrong tls": (LISTEN.replace('"none"', '"ssl"') + UPSTREAM, '#1 tls: "ssl"', '"implicit"'),
    "no certificate": (LISTEN.replace('"none"', '"starttls"') + UPSTREAM, "#1 tls: needs a cert", "gatepost init"),
    "certificate without key": ('[tls]\ncertificate = "c.pem"\n' + LISTEN + UPSTREAM, "[tls] key: is missing", "PEM"),
    "key without certificate": ('[tls]\nkey = "k.pem"\n' + LISTEN + UPSTREAM, "[tls] certificate: is missing", "PEM"),
    "tls minimum": ('[tls]\nminimum = "1.0"\n' + LISTEN + UPSTREAM, "[tls] minimum", '"1.2" or "1.3"'),
    "minimum as a number": ("[tls]\nminimum = 1.2\n" + LISTEN + UPSTREAM, "[tls] minimum: is a fraction", "quotes"),
    "no listeners": (UPSTREAM, "listen: is missing", "add a [[listen]]"),
    "one listener as a table": ("[listen]\n" + UPSTREAM, "listen: is no list", "[[listen]]"),
    "no upstreams": (LISTEN, "upstream: is missing", "[upstream.NAME]"),
    "upstream is no table": ("upstream = 1\n" + LISTEN, "upstream: is a number", "[upstream.NAME]"),
    "upstream without name": (LISTEN + '[upstream]\nimap = "imaps://h"\n', "upstream.imap: is a string", "[upstream"),
    "name of an upstream": (LISTEN + UPSTREAM.replace("one", '"a b"'), "[upstream.a b]", "letters"),
    "upstream without servers": (LISTEN + "[upstream.one]\n", "imap: is missing, and so is smtp", "imaps://"),
    "unknown upstream": (LISTEN + 'upstreams = ["two"]\n' + UPSTREAM, "there is no [upstream.two]", "one of: one"),
    "no upstreams named": (LISTEN + "upstreams = []\n" + UPSTREAM, "#1 upstreams", "set imap"),
    "upstream twice": (LISTEN + 'upstreams = ["one", "one"]\n' + UPSTREAM, '"one" twice', "once"),
    "upstream of another protocol": (
        LISTEN.replace("imap", "smtp") + 'upstreams = ["one"]\n' + OAUTH2,
        "#1 upstreams: [upstream.one] has no smtp",
        "leave it out",
    ),
    "nothing behind a listener": (LISTEN.replace("imap", "smtp") + OAUTH2, "no upstream here has smtp", "set smtp"),
    "upstreams is a string": (LISTEN + 'upstreams = "one"\n' + UPSTREAM, "#1 upstreams: is a string", "list"),
    "upstreams of numbers": (LISTEN + "upstreams = [1]\n" + UPSTREAM, "#1 upstreams", "list"),
    "same address twice": (LISTEN + LISTEN + UPSTREAM, "[[listen]] #2 address: is used", "its own"),
    "insecure is a word": (LISTEN + 'insecure = "yes"\n' + UPSTREAM, "insecure: is a string", "true or false"),
    "auth": (LISTEN + UPSTREAM.replace('"password"', '"kerberos"'), "[upstream.one] auth", '"oauth2" or "password"'),
    "no oauth2": (LISTEN + UPSTREAM.replace("auth", "# auth"), "[upstream.one] oauth2: is missing", "upstream.one.oau"),
    "oauth2 with password": (LISTEN + UPSTREAM + OAUTH2.split("\n", 2)[2], "oauth2: is not used", "remove"),
    "no client id": (LISTEN + OAUTH2.replace("client_id", "# "), "[upstream.one.oauth2] client_id: is missing", "add"),
    "no token url": (LISTEN + OAUTH2.replace("token_url", "# "), "token_url: is missing", "https://"),
    "other grant": (LISTEN + OAUTH2 + 'grant = "password"\n', "grant: ", 'use "user", "client_credentials" or'),
    "scopes is a string": (LISTEN + OAUTH2 + 'scopes = "mail"\n', "scopes: is a string", "list"),
    "client secret itself": (LISTEN + OAUTH2 + 'client_secret = "hunter2"\n', "client_secret: must be", "never the"),
    "master key itself": ('[keys]\nmaster = "hunter2"\n' + LISTEN + UPSTREAM, "[keys] master: must be", "never the"),
    "credential with a path": ('[keys]\nmaster = "credential:../x"\n' + LISTEN + UPSTREAM, "[keys] master", "never"),
    "unknown database": ('[store]\nurl = "mysql://root:hunter2@db/x"\n' + LISTEN + UPSTREAM, "[store] url", "sqlite"),
    "database in memory": ('[store]\nurl = "sqlite:///:memory:"\n' + LISTEN + UPSTREAM, "[store] url", "name a file"),
    "database without file": ('[store]\nurl = "sqlite:///"\n' + LISTEN + UPSTREAM, "[store] url", "sqlite:///FILE"),
    "database with options": (
        '[store]\nurl = "sqlite:///a?b=c"\n' + LISTEN + UPSTREAM,
        "[store] url",
        "leave them out",
    ),
    "postgresql without host": ('[store]\nurl = "postgresql://"\n' + LISTEN + UPSTREAM, "[store] url", "USER@HOST"),
    "migrate is a number": ("[store]\nmigrate = 1\n" + LISTEN + UPSTREAM, "[store] migrate: is a number", "true"),
    "section is a value": ("log = 'debug'\n" + LISTEN + UPSTREAM, "log: is a string", "[log]"),
    "log level": ("[log]\nlevel = 'trace'\n" + LISTEN + UPSTREAM, '[log] level: "trace"', '"warning"'),
    "metrics for all": ('[metrics]\naddress = "0.0.0.0:9187"\n' + LISTEN + UPSTREAM, "[metrics] address", "insecure ="),
    "metrics without a port": (
        '[metrics]\naddress = "127.0.0.1"\n' + LISTEN + UPSTREAM,
        "address: has no port",
        "port",
    ),
    "unknown metrics": ("[metrics]\nport = 9187\n" + LISTEN + UPSTREAM, "[metrics] port: unknown key", "remove it"),
    "fewer than no workers": ("[workers]\ncount = -1\n" + LISTEN + UPSTREAM, "[workers] count: -1", "1024"),
    "too many workers": ("[workers]\ncount = 1025\n" + LISTEN + UPSTREAM, "[workers] count: 1025", "1024"),
    "a node with a blank": ('[workers]\nnode = "mail 1"\n' + LISTEN + UPSTREAM, "[workers] node: is no name", "use up"),
    "a node of two lines": ('[workers]\nnode = "a\\nb"\n' + LISTEN + UPSTREAM, "[workers] node", ""),
    "limit too low": ("[limits]\nconnections = 0\n" + LISTEN + UPSTREAM, "[limits] connections: 0", "from 1 to"),
    "cache too long": ("[limits]\nverify_cache_s = 301\n" + LISTEN + UPSTREAM, "verify_cache_s: 301", "from 0 to 300"),
    "limit is true": ("[limits]\nconnections = true\n" + LISTEN + UPSTREAM, "connections: is true or", "whole number"),
    "limit is a fraction": ("[limits]\ndrain_s = 1.5\n" + LISTEN + UPSTREAM, "drain_s: is a fraction", "whole number"),
    "limit is a date": ("[limits]\ndrain_s = 2026-01-01\n" + LISTEN + UPSTREAM, "drain_s: is a date", "whole number"),
    "argon2": ("[limits]\nargon2_memory_kib = 8\nargon2_lanes = 2\n" + LISTEN + UPSTREAM, "argon2_memory_kib", "RFC"),
    "empty value": ("[tls]\ncertificate = ' '\n" + LISTEN + UPSTREAM, "[tls] certificate: is empty", "remove"),
    "number for a string": ("[tls]\ncertificate = 1\n" + LISTEN + UPSTREAM, "certificate: is a number", "quotes"),
    "control character": (LISTEN.replace("1143", "\\u001b[2J") + UPSTREAM, "#1 address: holds a control", "one line"),
    "syntax": ("[store]\nurl = \n", "line 2", "correct the TOML"),
    "key twice": ("[log]\nlevel = 'info'\nlevel = 'info'\n", "line 3", "correct the TOML"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_file_is_refused_with_key_and_remedy(tmp_path, case):
    text, *named = BROKEN[case]
    line = refusal(tmp_path, text)
    for words in named:
        assert words in line
    assert "hunter2" not in line


def test_missing_file_names_the_way_to_one(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.toml does not exist; run gatepost init"):
        load(tmp_path / "gone.toml")


def test_directory_in_place_of_the_file(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*: Is a directory; name a TOML file"):
        load(tmp_path)


def test_unreadable_file_names_the_remedy(tmp_path, monkeypatch):
    def refuse(*_arguments: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "open", refuse)  # CI runs as root, who may read everything
    with pytest.raises(ConfigError, match="may not be read by this user; run as"):
        load(tmp_path / "gatepost.toml")


def test_latin1_file_names_the_line(tmp_path):
    (tmp_path / "gatepost.toml").write_bytes(b"# one\n# b\xfccher\n")
    with pytest.raises(ConfigError, match="line 2 is not UTF-8"):
        load(tmp_path / "gatepost.toml")


def test_endless_file_is_not_read_to_its_end(tmp_path):
    with (tmp_path / "gatepost.toml").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(ConfigError, match="is longer than"):
        load(tmp_path / "gatepost.toml")


def test_deep_nesting_is_refused(tmp_path):
    assert "nested too deeply" in refusal(tmp_path, "a = " + "[" * 100_000)


def test_metrics_are_on_loopback_unless_told_otherwise(tmp_path):
    assert read(tmp_path, LISTEN + UPSTREAM).metrics.address is None
    inside = read(tmp_path, '[metrics]\naddress = "[::1]:9187"\n' + LISTEN + UPSTREAM)
    assert inside.metrics.address == ("::1", 9187)
    outside = read(tmp_path, '[metrics]\naddress = "0.0.0.0:9187"\ninsecure = true\n' + LISTEN + UPSTREAM)
    assert outside.metrics.address == ("0.0.0.0", 9187)
