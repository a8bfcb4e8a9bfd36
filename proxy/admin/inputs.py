"""What people type, made exact: e-mails, names, expiry, networks, protocols.

Pure functions; each raises OperatorError with a remedy. What is stored can be printed on any terminal: no control
or invisible characters get through here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from proxy.config import PROTOCOLS, Network, Protocol, UpstreamConfig
from proxy.config.address import BadAddress, network
from proxy.errors import OperatorError
from proxy.secret import Secret
from proxy.wire.names import canonical_login

MAX_NAME = 100  # characters of an app password's name
MAX_UPSTREAM_USER = 254  # as a login name
MAX_ALIASES = 50
MAX_NETWORKS = 50
MAX_OVERLAP = timedelta(days=90)  # of a rotation: a former password that works for longer is a second one
_MAX_REPEATED = 60  # characters of a wrong input that an error repeats

_PERIOD = re.compile(r"([0-9]{1,6})([hdw])", re.ASCII)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}(:[0-9]{2})?(Z|[+-][0-9]{2}:[0-9]{2})?)?", re.ASCII)
_HOURS = {"h": 1, "d": 24, "w": 168}
_EXPIRY_REMEDY = "write a time from now, like 12h, 90d or 8w, or a date, like 2030-12-31"
_SINCE_REMEDY = "write how long ago, like 12h, 7d or 8w, or a date, like 2026-12-31"
_OVERLAP_REMEDY = "write one like 24h, 7d or 2w, at most 90d; 0h ends the former password at once"


def email(text: str) -> str:
    """The canonical form of a mailbox address: one @, nothing invisible, no blank, no domain and backslash in front."""
    name = canonical_login(text)
    if name is None or name.count("@") != 1 or "\\" in text or any(char.isspace() for char in name):
        raise OperatorError(f"{repeated(text)} is no e-mail address", "write it like ann@example.com")
    return name


def login(text: str) -> str:
    """The canonical form of any login name, to look an account up by. Raises OperatorError if it can't be one."""
    name = canonical_login(text)
    if name is None:
        raise OperatorError(f"{repeated(text)} is no login name", "gatepost account list shows them")
    return name


def aliases(texts: Sequence[str], address: str) -> tuple[str, ...]:
    """Further login names in canonical form, each once, without the e-mail itself."""
    names: list[str] = []
    for text in texts:
        name = canonical_login(text)
        if name is None or not name.isprintable():
            raise OperatorError(f"alias {repeated(text)} is no login name", "use letters, digits and at most one @")
        if name != address and name not in names:
            names.append(name)
    if len(names) > MAX_ALIASES:
        raise OperatorError(f"{len(names)} aliases are too many", f"give at most {MAX_ALIASES}")
    return tuple(names)


def upstream_user(text: str) -> str:
    """What the upstream calls the mailbox: kept as typed, since case may matter there."""
    name = text.strip()
    if not name or len(name.encode(errors="replace")) > MAX_UPSTREAM_USER or not name.isprintable():
        raise OperatorError(
            f"upstream user {repeated(text)} can't be one", f"use 1 to {MAX_UPSTREAM_USER} visible characters"
        )
    return name


def name(text: str) -> str:
    """The name of an app password: 1 to MAX_NAME visible characters, NFC; never an app password itself."""
    if is_app_password(text):
        raise OperatorError("that is an app password and no name", "name the program or device that it is for")
    normal = unicodedata.normalize("NFC", text.strip()) if text.isprintable() else ""
    if not normal or len(normal) > MAX_NAME:
        raise OperatorError(f"name {repeated(text)} can't be used", f"use 1 to {MAX_NAME} visible characters")
    return normal


def protocols(texts: Sequence[str], upstream: UpstreamConfig) -> tuple[Protocol, ...]:
    """The protocols asked for, in Gatepost's order; all that the upstream has if none is named."""
    offered = tuple(protocol for protocol in PROTOCOLS if upstream.endpoint(protocol) is not None)
    for text in texts:
        if text not in PROTOCOLS:
            raise OperatorError(f"there is no protocol {repeated(text)}", f"use {' or '.join(PROTOCOLS)}")
        if text not in offered:
            raise OperatorError(f"upstream {upstream.name} has no {text}", f"it has {' and '.join(offered)}")
    return tuple(protocol for protocol in offered if not texts or protocol in texts)


def networks(texts: Sequence[str]) -> tuple[str, ...]:
    """CIDR networks in canonical form, each once; a bare address is a network of one.

    IPv4-mapped IPv6 becomes IPv4, as clients' addresses do.
    """
    found: list[str] = []
    for text in texts:
        canonical = str(_network(text))
        if canonical not in found:
            found.append(canonical)
    if len(found) > MAX_NETWORKS:
        raise OperatorError(f"{len(found)} networks are too many", f"give at most {MAX_NETWORKS}")
    return tuple(found)


def _network(text: str) -> Network:
    try:
        return network(text)
    except BadAddress as error:
        raise OperatorError(f"{repeated(text)} {error.what}", error.remedy) from None


def expiry(text: str, now: datetime) -> datetime:
    """When an app password ends: a period from now (12h, 90d, 8w), or a date (its first moment in UTC) or RFC 3339."""
    try:
        moment = _moment(text.strip(), now, forwards=True)
    except (ValueError, OverflowError):
        raise OperatorError(f"expiry {repeated(text)} is no time", _EXPIRY_REMEDY) from None
    if moment <= now:
        raise OperatorError(f"expiry {repeated(text)} is not in the future", _EXPIRY_REMEDY)
    return moment


def since(text: str, now: datetime) -> datetime:
    """When a report begins: a period ago (12h, 7d, 8w), or a date (its first moment in UTC) or RFC 3339."""
    try:
        moment = _moment(text.strip(), now, forwards=False)
    except (ValueError, OverflowError):
        raise OperatorError(f"--since {repeated(text)} is no time", _SINCE_REMEDY) from None
    if moment > now:
        raise OperatorError(f"--since {repeated(text)} is in the future", _SINCE_REMEDY)
    return moment


def _moment(text: str, now: datetime, *, forwards: bool) -> datetime:
    if period := _PERIOD.fullmatch(text):
        return now + _length(period) if forwards else now - _length(period)
    if not _DATE.fullmatch(text):
        raise ValueError("neither form")
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)


def _length(period: re.Match[str]) -> timedelta:
    return timedelta(hours=int(period[1]) * _HOURS[period[2]])


def overlap(text: str) -> timedelta:
    """For how long the former password works beside the new one: a period, from 0h to MAX_OVERLAP."""
    period = _PERIOD.fullmatch(text.strip())
    if period is None:
        raise OperatorError(f"overlap {repeated(text)} is no period", _OVERLAP_REMEDY)
    length = _length(period)
    if length > MAX_OVERLAP:
        raise OperatorError(f"overlap {repeated(text)} is longer than {MAX_OVERLAP.days} days", _OVERLAP_REMEDY)
    return length


def is_app_password(text: str) -> bool:
    """Whether it has the form of one: typed where something else belongs, it must not be shown or stored."""
    from proxy.vault.apppassword import parse  # noqa: PLC0415 - only where something was typed wrong, or named

    return parse(Secret(text)) is not None


def repeated(text: str) -> str:
    """A wrong input as an error may repeat it: quoted, printable, cut; an app password never."""
    if is_app_password(text):
        return "(an app password)"
    if not text.isprintable():
        text = text.encode("unicode_escape", "backslashreplace").decode("ascii")
    return f'"{text if len(text) <= _MAX_REPEATED else text[:_MAX_REPEATED] + "..."}"'


def suggestion(word: str, known: Iterable[str], otherwise: str, *, cutoff: float = 0.6) -> str:
    """A remedy for an unknown word: the nearest known one, if it is as near as `cutoff` (0 to 1) says."""
    import difflib  # noqa: PLC0415 - only an error needs it

    close = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"did you mean {close[0]}?" if close else otherwise
