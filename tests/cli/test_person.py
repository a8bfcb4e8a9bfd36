"""proxy/cli/person.py: who made a row."""

from __future__ import annotations

import os
import pwd

import pytest

from proxy.cli.person import who


def test_person_behind_sudo_is_named(monkeypatch):
    monkeypatch.setenv("SUDO_USER", "ann")
    assert who() == "cli:ann"


def test_user_of_the_process_is_named(monkeypatch):
    monkeypatch.delenv("SUDO_USER", raising=False)
    assert who() == f"cli:{pwd.getpwuid(os.getuid()).pw_name}"


def test_user_without_a_name_is_a_number(monkeypatch):
    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 987_654_321)
    assert who() == "cli:987654321"


@pytest.mark.parametrize("name", ["\x1b[2J", "a\nb"])
def test_name_that_could_break_a_terminal_is_not_kept(name, monkeypatch):
    monkeypatch.setenv("SUDO_USER", name)
    assert who() == "cli:unknown"
