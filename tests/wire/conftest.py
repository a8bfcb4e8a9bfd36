from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.wire.playbook import ImapPlaybook, bytewise, whole


@pytest.fixture(params=[whole, bytewise], ids=["whole", "bytewise"])
def imap(request: pytest.FixtureRequest) -> Iterator[ImapPlaybook]:
    """A greeted gate under TLS; nothing it said may be left over at the end of a test."""
    playbook = ImapPlaybook(request.param)
    playbook.start()
    playbook.server("* OK *")
    yield playbook
    playbook.silent()
