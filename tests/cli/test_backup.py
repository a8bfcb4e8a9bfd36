"""`gatepost backup`, `restore` and `resume --all`, as an administrator meets them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from proxy.cli import main
from tests.cli.conftest import Gatepost


@pytest.fixture
def elsewhere(template: Path, tmp_path: Path, capsys, monkeypatch, gatepost: Gatepost) -> Gatepost:
    """Another machine's set-up, with a master key of its own."""
    directory = tmp_path / "elsewhere"
    assert main(["init", str(directory)]) == 0
    shutil.copy(template / "gatepost.toml", directory / "gatepost.toml")
    return Gatepost(directory, capsys, monkeypatch)


def at(other: Gatepost, *words: str) -> list[str]:
    return [*words, "--config", str(other.config)]


def test_a_backup_moves_to_another_machine_and_says_what_is_left_to_do(gatepost, elsewhere, tmp_path) -> None:
    gatepost.add_ann()
    made = gatepost.done("create", "ann@example.com", "--name", "Scanner", "--json").json
    lost = gatepost.done("create", "ann@example.com", "--name", "Lost", "--json").json
    gatepost.done("create", "ann@example.com", "--name", "Away")
    away = next(one["id"] for one in gatepost.done("list", "--json").json if one["name"] == "Away")
    gatepost.done("suspend", away)
    file = tmp_path / "backup"
    said = gatepost.done("backup", str(file)).out
    assert f"Wrote {file}: 1 mailboxes, 3 app passwords" in said
    assert "The master key is not in it" in said
    gatepost.done("revoke", lost["id"])
    assert made["password"] not in file.read_text()
    assert (gatepost.directory / "master.key").read_text().strip() not in file.read_text()

    said = gatepost.done(*at(elsewhere, "restore", str(file))).out
    assert "holds another one" in said
    assert "gatepost resume --all" in said
    states = {one["name"]: one["state"] for one in gatepost.done(*at(elsewhere, "list", "--json")).json}
    assert states == {"Scanner": "suspended", "Lost": "suspended", "Away": "suspended"}
    gatepost.done(*at(elsewhere, "revoke", lost["id"]))  # as it was before the disaster
    assert gatepost.done(*at(elsewhere, "resume", "--all", "--json")).json == {"resumed": 1}
    states = {one["name"]: one["state"] for one in gatepost.done(*at(elsewhere, "list", "--json")).json}
    assert states == {"Scanner": "active", "Lost": "revoked", "Away": "suspended"}
    assert "No restore suspended any." in gatepost.done(*at(elsewhere, "resume", "--all")).out

    events = [one["event"] for one in gatepost.done(*at(elsewhere, "audit", "--json")).json]
    assert events[-3:] == ["restored", "revoked", "resumed"]
    assert gatepost.done("audit", "--json").json[-2]["event"] == "backed_up"


def test_one_app_password_may_be_resumed_by_itself_after_a_restore(gatepost, elsewhere, tmp_path) -> None:
    gatepost.add_ann()
    made = gatepost.done("create", "ann@example.com", "--name", "Scanner", "--json").json
    gatepost.done("backup", str(tmp_path / "backup"))
    gatepost.done(*at(elsewhere, "restore", str(tmp_path / "backup")))
    assert "Resumed" in gatepost.done(*at(elsewhere, "resume", made["id"])).out
    assert gatepost.done(*at(elsewhere, "show", made["id"], "--json")).json["state"] == "active"
    gatepost.done(*at(elsewhere, "suspend", made["id"]))
    assert gatepost.done(*at(elsewhere, "resume", "--all", "--json")).json == {"resumed": 0}


def test_with_its_own_master_key_a_restored_set_up_is_sound(gatepost, elsewhere, tmp_path) -> None:
    gatepost.add_ann()
    gatepost.done("backup", str(tmp_path / "backup"))
    shutil.copy(gatepost.directory / "master.key", elsewhere.directory / "master.key")
    shown = gatepost.done(*at(elsewhere, "restore", str(tmp_path / "backup"), "--json")).json
    assert shown["has_master_key"] is True
    assert shown["rows"]["account"] == 1
    assert shown["made_by"].startswith("cli:")
    assert len(shown["sha256"]) == 64


def test_a_backup_is_private_and_never_takes_the_place_of_another(gatepost, tmp_path) -> None:
    file = tmp_path / "backup"
    before = os.umask(0)
    try:
        shown = gatepost.done("backup", str(file), "--json").json
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o600
    assert json.loads(file.read_bytes().splitlines()[-1])["sha256"] == shown["sha256"]
    whole = file.read_bytes()
    assert "exists already" in gatepost.refused("backup", str(file))
    assert file.read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir() if "backup" in path.name] == ["backup"]


@pytest.mark.parametrize("place", ["missing/backup", "."])
def test_a_backup_that_cannot_be_written_is_one_line_and_leaves_nothing(gatepost, tmp_path, place) -> None:
    gatepost.refused("backup", str(tmp_path / place))
    assert [path.name for path in tmp_path.iterdir()] == ["setup"]


def test_a_full_disk_leaves_no_half_of_a_backup(gatepost, tmp_path, monkeypatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("proxy.admin.backup.os.fsync", full)
    assert "No space left on device" in gatepost.refused("backup", str(tmp_path / "backup"))
    assert [path.name for path in tmp_path.iterdir()] == ["setup"]


def test_what_a_killed_backup_left_goes_with_the_next(gatepost, tmp_path) -> None:
    (tmp_path / ".backup.part").write_bytes(b"half")
    gatepost.done("backup", str(tmp_path / "backup"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup", "setup"]


def test_what_is_no_backup_or_not_there_is_one_line(gatepost, elsewhere, tmp_path) -> None:
    assert "cannot read" in gatepost.refused(*at(elsewhere, "restore", str(tmp_path / "gone")))
    assert "cannot read" in gatepost.refused(*at(elsewhere, "restore", str(tmp_path)))
    assert "is no backup" in gatepost.refused(*at(elsewhere, "restore", str(gatepost.config)))
    gatepost.add_ann()
    gatepost.done("backup", str(tmp_path / "backup"))
    assert "has accounts already" in gatepost.refused("restore", str(tmp_path / "backup"))


def test_resume_takes_ids_or_all(gatepost) -> None:
    assert gatepost("resume").status == 2
    assert gatepost("resume", "--all", "abc").status == 2
