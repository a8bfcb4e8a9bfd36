"""The IMAP gate and its command reader: any stream, in any split, within the bounds, and no secret said back."""

from __future__ import annotations

from proxy.errors import Answer
from proxy.wire.imap import MAX_HELD_BYTES, Action, Close, ImapGate, Login, Send, StartTls
from proxy.wire.imap_command import MAX_LINE_BYTES, MAX_LITERAL_BYTES, MAX_LITERALS
from proxy.wire.sasl import MAX_SASL_BYTES
from tests.fuzz.kit import alike, demand, has_secret, read_input
from tests.wire.playbook import shown

# One line, and one command's lines and literals.
MAX_STATE_BYTES = MAX_SASL_BYTES + 2 + MAX_LINE_BYTES + MAX_LITERALS * MAX_LITERAL_BYTES
TOKENS = (
    b"a1 ", b"LOGIN ", b"AUTHENTICATE ", b"PLAIN", b"LOGIN", b"NOOP", b"ID ", b"STARTTLS", b"CAPABILITY", b"LOGOUT",
    b"\r\n", b"\n", b"\r", b"ann", b'"', b"\\", b" ", b"{3+}\r\n", b"{3}\r\n", b"{0+}\r\n", b"{4097}\r\n", b"{9", b"}",
    b"(", b")", b"NIL", b"=", b"*", b"+", b"~", b"AGFubgBwYXNz", b"\0", b"\xff", b"\xfd", b"\xfe\x40A", b"\xfe\xc1A",
    b'"name" "x"', b"\xfe\x81 ",
)  # fmt: skip
_ANSWERS = (Answer.CREDENTIALS, Answer.UNAVAILABLE, Answer.AUTHORIZATION, Answer.LIMIT, Answer.CLOSING)


def one(data: bytes) -> None:
    given = read_input(data)
    alike([_play(pieces, given.flags) for pieces in given.splits], "a split changes what is done")


def _play(pieces: tuple[bytes, ...], flags: int) -> list[object]:
    """Feed all pieces, doing each login and handshake at once. The first login that is let in ends it."""
    gate = ImapGate(
        extensions=("IDLE", "LITERAL+"),
        secured=not flags & 1,
        starttls=bool(flags & 2),
        clear_ok=bool(flags & 4),
    )
    lets_in = bool(flags & 8)
    refusal = _ANSWERS[(flags >> 4) % len(_ANSWERS)]
    heard = _readable(gate.greet())
    for at, piece in enumerate(pieces):
        actions = gate.receive(piece)
        heard += _readable(actions)
        while actions and isinstance(actions[-1], Login):
            demand(gate.is_busy, "a login is under way and the gate not busy")
            demand(len(gate._input) <= MAX_HELD_BYTES, "too much is held")
            if lets_in:
                tag, held = gate.accept()
                return [*heard, tag, held + b"".join(pieces[at + 1 :])]
            actions = gate.refuse(refusal)
            heard += _readable(actions)
        _within_bounds(gate, is_closed=Close in heard)
        demand(Close not in heard[:-1], "something is said after the end", heard)
        demand((gate._state.value == "closed") == (Close in heard), "the gate does not know that it is closed")
        if StartTls in heard and Close not in heard:
            return heard  # what comes now belongs to the handshake
    return heard


def _within_bounds(gate: ImapGate, *, is_closed: bool) -> None:
    reader = gate._reader
    kept = sum(map(len, reader._texts)) + sum(map(len, reader._literals))
    demand(len(gate._input) + kept <= MAX_STATE_BYTES, "more is held than the bounds allow")
    if is_closed:
        demand(len(gate._input) + kept == 0, "a closed gate holds input")


def _readable(actions: list[Action]) -> list[object]:
    found: list[object] = []
    for action in actions:
        if isinstance(action, Send):
            demand(repr(action) == "Send()", "a Send shows what it says")
            _check_words(action.data)
            found.append(action.data)
        elif isinstance(action, Login):
            known = shown(action.credentials)
            if known is not None and not has_secret(action.tag + (known.login + known.authzid).encode()):
                demand(not has_secret(repr(action)), "a Login shows its password")
            found.append((action.tag, known, action.mechanism))
        else:
            found.append(type(action))
    return found


def _check_words(data: bytes) -> None:
    demand(data.endswith(b"\r\n"), "an answer without an end", data)
    for line in data[:-2].split(b"\r\n"):
        demand(not set(line) & {0, 10, 13}, "an answer of two lines", line)
        _tag, _, words = line.partition(b" ")  # the client's tag is the one thing that is said back
        demand(not has_secret(words), "a secret is said back", line)
        demand(words.isascii(), "an answer that is not ASCII", line)
