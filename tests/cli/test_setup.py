"""proxy/cli/setup.py: gatepost init, check, db upgrade."""

from __future__ import annotations

import json
import re
import socket
import sqlite3
import stat
from pathlib import Path

import pytest

from proxy.admin import Finding
from proxy.cli.run import main
from proxy.cli.setup import report
from proxy.config.reader import load

FILES = {"gatepost.toml", "master.key", "gatepost.db", "cert.pem", "key.pem"}


def test_init_makes_a_set_up_that_loads(tmp_path, capsys):
    directory = tmp_path / "new" / "gatepost"
    assert main(["init", str(directory), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    record = json.loads(out)
    assert record["config"] == str(directory / "gatepost.toml")
    assert {Path(file).name for file in record["files"]} == FILES
    assert {"localhost", "127.0.0.1"} <= set(record["certificate_names"])
    assert {file.name for file in directory.iterdir()} == FILES  # no workshop, no -wal file
    config = load(directory / "gatepost.toml")
    assert [(listener.protocol, listener.port) for listener in config.listeners] == [
        ("imap", 993),
        ("smtp", 465),
        ("smtp", 587),
    ]


def test_init_names_the_example_that_shows_every_key(tmp_path, capsys):
    assert main(["init", str(tmp_path / "new")]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "Every key" in line]
    example = Path(line.partition(": ")[2])
    assert example.name == "gatepost.example.toml"
    assert "client_certificate" in example.read_text()


def test_first_configuration_leaves_only_the_client_to_fill_in(tmp_path):
    main(["init", str(tmp_path / "new")])
    file = tmp_path / "new" / "gatepost.toml"
    upstream = load(file).upstreams["main"]
    assert upstream.preset == "microsoft365"
    edited = [line.lstrip("# ").split(" ")[0] for line in file.read_text().splitlines() if "# EDIT" in line]
    assert edited == ["client_id", "client_secret", "tenant"]
    text = re.sub(r"^# (client_secret|tenant) =", r"\1 =", file.read_text(), count=2, flags=re.MULTILINE)
    file.write_text(text)
    oauth2 = load(file).upstreams["main"].oauth2
    assert oauth2 is not None
    assert oauth2.token_url.startswith("https://login.microsoftonline.com/your-tenant-id/")


def test_first_configuration_shows_a_server_without_a_preset_that_loads(tmp_path):
    main(["init", str(tmp_path / "new")])
    file = tmp_path / "new" / "gatepost.toml"
    head, _, tail = file.read_text().partition("# [upstream.other]")
    file.write_text(head + re.sub(r"^# ?", "", "# [upstream.other]" + tail, flags=re.MULTILINE))
    assert load(file).upstreams["other"].preset == ""


def test_secret_files_are_for_their_owner_alone(gatepost):
    for name in ("master.key", "key.pem", "gatepost.db"):
        assert stat.S_IMODE((gatepost.directory / name).stat().st_mode) == 0o600


def test_init_goes_where_the_configuration_is_expected(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("GATEPOST_CONFIG", str(tmp_path / "gate" / "mine.toml"))
    assert main(["init"]) == 0
    out = capsys.readouterr().out
    assert str(tmp_path / "gate" / "mine.toml") in out
    assert "gatepost check" in out
    assert load(tmp_path / "gate" / "mine.toml").keys.master.read()
    assert main(["account", "list"]) == 0


@pytest.mark.parametrize("name", sorted(FILES))
def test_init_never_overwrites(name, gatepost, tmp_path):
    directory = tmp_path / "half"
    directory.mkdir()
    (directory / name).write_text("mine")
    line = gatepost.refused("init", str(directory))
    assert f"{directory / name} exists already" in line
    assert [(file.name, file.read_text()) for file in directory.iterdir()] == [(name, "mine")]


def test_init_does_not_follow_a_dangling_link(gatepost, tmp_path):
    directory = tmp_path / "linked"
    directory.mkdir()
    (directory / "master.key").symlink_to(tmp_path / "elsewhere")
    assert "exists already" in gatepost.refused("init", str(directory))
    assert not (tmp_path / "elsewhere").exists()


def test_init_into_a_file_is_refused_and_leaves_nothing(gatepost, tmp_path):
    (tmp_path / "file").write_text("")
    line = gatepost.refused("init", str(tmp_path / "file" / "below"))
    assert "cannot set up" in line
    assert (tmp_path / "file").read_text() == ""


def test_init_that_fails_in_the_middle_leaves_nothing(gatepost, tmp_path):
    parent = tmp_path / "what?"  # no SQLite URL can name a file in it
    line = gatepost.refused("init", str(parent / "deep"))
    assert "?" in line
    assert not parent.exists()


def test_init_that_is_interrupted_leaves_nothing(gatepost, tmp_path, monkeypatch):
    links: list[object] = []

    def link(source: object, target: object) -> None:
        links.append(target)
        if len(links) == 3:
            raise KeyboardInterrupt
        Path(str(target)).write_bytes(Path(str(source)).read_bytes())

    monkeypatch.setattr("os.link", link)
    result = gatepost("init", str(tmp_path / "new"))
    assert (result.status, result.out, result.err) == (130, "", "")
    assert len(links) == 3
    assert not (tmp_path / "new").exists()


def test_upgrade_of_a_current_database_says_so(gatepost):
    assert "up to date" in gatepost.done("db", "upgrade").out
    record = gatepost.done("db", "upgrade", "--json").json
    assert record["before"] == record["now"]
    assert len(record["master_key"]) == 16


def test_newer_database_is_refused_with_the_remedy(gatepost):
    database = sqlite3.connect(gatepost.directory / "gatepost.db")
    with database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    for words in (("list",), ("db", "upgrade"), ("account", "list")):
        line = gatepost.refused(*words)
        assert "written by a newer Gatepost" in line
        assert "restore a backup" in line


def test_something_else_in_place_of_the_database_is_refused(gatepost):
    (gatepost.directory / "gatepost.db").write_text("no database at all, but long enough to be looked at" * 20)
    assert "gatepost.db" in gatepost.refused("list")


@pytest.fixture
def closed_port() -> int:
    """A port of this host where nobody listens; held until the test ends, so that nobody else gets it."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def point_upstreams_at(gatepost, port: int) -> None:
    own = f'imap = "imaps://127.0.0.1:{port}"\nsmtp = "smtp://127.0.0.1:{port}"'
    text = gatepost.config.read_text().replace('preset = "microsoft365"', own)
    text = text.replace("client_id = ", 'token_url = "https://127.0.0.1:1/"\nclient_id = ', 1)
    text = text.replace("imaps://imap.example.com", f"imaps://127.0.0.1:{port}")
    gatepost.config.write_text(text)


def test_check_reports_every_upstream_and_is_refused(gatepost, closed_port):
    point_upstreams_at(gatepost, closed_port)
    result = gatepost("check", "--json")
    assert result.status == 1
    assert result.err == "gatepost: 3 of 7 checks failed; the report says what to do about each\n"
    findings = {finding["name"]: finding for finding in result.json["findings"]}
    assert result.json["ok"] is False
    for name in ("configuration", "certificate", "store", "master key"):
        assert findings[name]["result"] == "ok"
    for name in ("upstream main imap", "upstream main smtp", "upstream imaponly imap"):
        assert findings[name]["result"] == "failed"
        assert str(closed_port) in findings[name]["detail"]
        assert findings[name]["remedy"]


def test_check_for_people_says_the_same(gatepost, closed_port):
    point_upstreams_at(gatepost, closed_port)
    result = gatepost("check")
    assert result.status == 1
    assert "certificate             ok" in result.out
    assert "failed: upstream main imap: check its host and port" in result.out


def test_check_of_an_unknown_mailbox_fails(gatepost, closed_port):
    point_upstreams_at(gatepost, closed_port)
    result = gatepost("check", "--login", "bob@example.com", "--json")
    assert result.status == 1
    assert result.json["findings"][-1] == {
        "name": "login bob@example.com",
        "result": "failed",
        "detail": "there is no such account",
        "remedy": "gatepost account list",
    }


def test_check_of_a_broken_set_up_still_reports_the_rest(gatepost, closed_port):
    point_upstreams_at(gatepost, closed_port)
    (gatepost.directory / "gatepost.db").unlink()
    gatepost.config.write_text(gatepost.config.read_text().replace("[upstream.main]", '[upstream.main]\ntls_ca = "x"'))
    result = gatepost("check", "--login", "ann@example.com", "--json")
    assert result.status == 1
    assert result.err.count("\n") == 1
    findings = {finding["name"]: finding for finding in result.json["findings"]}
    assert findings["certificate"]["result"] == "ok"
    assert findings["store"]["result"] == "failed"
    assert findings["upstream main tls_ca"]["result"] == "failed"
    assert findings["login ann@example.com"]["detail"] == "not tried"


def test_serve_with_a_missing_configuration_is_one_line(gatepost, tmp_path):
    assert "does not exist; run gatepost init" in gatepost.refused("serve", "--config", str(tmp_path / "gone.toml"))


FINE = Finding("certificate", ok=True, detail="gate.example.com; 90 days left")
WARNING = Finding("listener", ok=True, detail="clear text", remedy="use TLS")
FAILED = Finding("upstream main imap", ok=False, detail="unreachable: \x1b[2J", remedy="look at the firewall")


def test_report_without_failures_is_done(capsys):
    assert report([FINE, WARNING], as_json=False) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines()[0].split() == ["CHECK", "RESULT", "DETAIL"]
    assert out.splitlines()[1] == "certificate  ok       gate.example.com; 90 days left"
    assert out.splitlines()[-1] == "warning: listener: use TLS"


def test_report_with_a_failure_is_refused(capsys):
    assert report([FINE, FAILED], as_json=False) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "failed: upstream main imap: look at the firewall"
    assert "\x1b" not in out
    assert err == "gatepost: 1 of 2 checks failed; the report says what to do about each\n"


def test_report_as_json_is_one_document(capsys):
    assert report([FINE, WARNING, FAILED], as_json=True) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert [finding["result"] for finding in document["findings"]] == ["ok", "warning", "failed"]
    assert document["findings"][1] == {
        "name": "listener",
        "result": "warning",
        "detail": "clear text",
        "remedy": "use TLS",
    }
