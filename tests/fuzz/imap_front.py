"""The IMAP front over a transport in memory: reading before login, pauses during it, and what the relay is given."""

from __future__ import annotations

from proxy.edge.imap import ImapFront
from tests.fuzz.fronts import call
from tests.fuzz.imap import TOKENS, _check_words
from tests.fuzz.kit import LOOP, alike, read_input, watched_logs

__all__ = ["TOKENS", "one"]


def one(data: bytes) -> None:
    given = read_input(data)
    with watched_logs():
        outcomes = [LOOP.run(lambda pieces=pieces: call(ImapFront, pieces, given.flags)) for pieces in given.splits]
    alike(outcomes, "a split changes what is done")
    _check_words(outcomes[0].said)
