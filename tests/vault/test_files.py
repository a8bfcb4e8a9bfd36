from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxy.secret import Secret, SecretSource
from proxy.vault.files import write_private
from proxy.vault.sealing import generate_master, load_master


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_a_secret_file_is_its_owner_s_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_private(tmp_path / "key", Secret("text\n"))
    finally:
        os.umask(before)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "key").read_text() == "text\n"


def test_nothing_that_is_there_is_touched(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("key", "link"):
        with pytest.raises(FileExistsError):
            write_private(tmp_path / name, Secret("new"))
    assert (tmp_path / "key").read_text() == "old"
    assert not (tmp_path / "elsewhere").exists()


def test_a_key_file_is_read_back_as_it_was_made(tmp_path: Path) -> None:
    text, key = generate_master()
    write_private(tmp_path / "master.key", text)
    assert load_master(SecretSource("file", str(tmp_path / "master.key")).read()).key_ids == (key.key_id,)
