"""Which extensions may be offered before login: what all upstreams behind a listener have, of those we know.

Clients don't ask again after AUTH, so these lists must already be true of the server they will talk to then. An
allow-list, because an extension may change what happens before login or need the proxy's help (STARTTLS, AUTH=,
LOGIN-REFERRALS, XCLIENT); those here concern the session after login only.
"""

from __future__ import annotations

from collections.abc import Sequence

# Names of RFC 9051's registry and what mail clients look for; a trailing "=" stands for any value.
IMAP_ALLOWED = frozenset(
    "ACL APPENDLIMIT APPENDLIMIT= BINARY CATENATE CHILDREN COMPRESS=DEFLATE CONDSTORE CONTEXT= CREATE-SPECIAL-USE "
    "ENABLE ESEARCH ESORT FILTERS FUZZY I18NLEVEL= ID IDLE IMAP4REV2 LIST-EXTENDED LIST-METADATA LIST-MYRIGHTS "
    "LIST-STATUS LITERAL+ LITERAL- METADATA METADATA-SERVER MOVE MULTIAPPEND MULTISEARCH NAMESPACE NOTIFY OBJECTID "
    "PARTIAL PREVIEW PREVIEW= QRESYNC QUOTA QUOTA= QUOTASET REPLACE RIGHTS= SAVEDATE SEARCH= SEARCHRES SNIPPET= SORT "
    "SORT= SPECIAL-USE STATUS=SIZE THREAD= UIDONLY UIDPLUS UNSELECT URL-PARTIAL UTF8=ACCEPT WITHIN X-GM-EXT-1 "
    "XLIST".split()
)
ESMTP_ALLOWED = frozenset(
    "8BITMIME BINARYMIME CHUNKING DELIVERBY DSN ENHANCEDSTATUSCODES FUTURERELEASE LIMITS MT-PRIORITY PIPELINING "
    "SMTPUTF8".split()
)


def common_imap(lists: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The IMAP capabilities that every list has, in the first list's order and spelling."""
    return tuple(name for upper, name in _shared(lists).items() if _is_allowed_imap(upper))


def common_esmtp(lists: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The EHLO lines that every list has, keyword and parameters alike; of SIZE the smallest (RFC 1870 4)."""
    common = [line for upper, line in _shared(lists).items() if upper.split()[0] in ESMTP_ALLOWED]
    size = _smallest_size(lists)
    return (*common, size) if size else tuple(common)


def _shared(lists: Sequence[Sequence[str]]) -> dict[str, str]:
    """What every list has, upper-cased, and as the first list spells it; blank lines are nothing."""
    first = {text.upper(): text for text in reversed(lists[0]) if text.strip()} if lists else {}
    others = [{text.upper() for text in one} for one in lists[1:]]
    return {upper: first[upper] for upper in reversed(first) if all(upper in one for one in others)}


def _is_allowed_imap(name: str) -> bool:
    key, equals, _ = name.partition("=")
    return name in IMAP_ALLOWED or (bool(equals) and f"{key}=" in IMAP_ALLOWED)


def _smallest_size(lists: Sequence[Sequence[str]]) -> str | None:
    """None if there is none that every upstream declares; "SIZE" alone, or 0, declares no limit."""
    if not lists:
        return None
    sizes: list[int] = []
    for lines in lists:
        words = next((line.upper().split() for line in lines if line.upper().split()[:1] == ["SIZE"]), None)
        if words is None:
            return None
        if len(words) > 1 and words[1].isdecimal() and int(words[1]) > 0:
            sizes.append(int(words[1]))
    return f"SIZE {min(sizes)}" if sizes else "SIZE"
