"""Login names: the one canonical form under which an account is stored and looked up.

It knows nothing of accounts; whether a name exists is the store's business.
"""

from __future__ import annotations

import unicodedata

MAX_NAME_BYTES = 254  # RFC 5321 4.5.3.1.3: a path is 256 octets with its angle brackets
MAX_TYPED_CHARACTERS = 1_024  # normalising shortens a text by less than four times; more cannot become a name


def canonical_login(text: str) -> str | None:
    r"""The canonical form of a login name as typed, or None for what can never be one.

    Surrounding white space goes, compatibility forms and case are folded (NFKC, casefold, NFC), and of
    `DOMAIN\user` the user stays. None: empty, over MAX_NAME_BYTES in UTF-8, two @ or nothing beside one, and
    characters that cannot be seen (controls, zero width, unassigned), which would make a second name that looks alike.

    The form is a fixed point: canonical_login(canonical_login(x)) == canonical_login(x).

    Source: RFC 8265 3.3 (UsernameCaseMapped), widened by NFKC for full-width forms, and by `DOMAIN\user`, which Windows
    programs send.
    """
    if len(text) > MAX_TYPED_CHARACTERS or not _is_visible(text):
        return None
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFKC", text.strip()).casefold()).strip()
    name = _without_domain(folded)
    if not name or not _is_address_or_plain(name):
        return None
    # NFKC may make a longer text than was typed, so the bound is held against the result.
    return name if len(name.encode()) <= MAX_NAME_BYTES else None


def _is_visible(text: str) -> bool:
    # C*: control, format (zero width, bidi), surrogate, private use, unassigned. The last also because a newer
    # Unicode may fold it differently, which would orphan the stored name.
    if text.isascii():
        return text.isprintable()  # the same, looked up once
    return all(unicodedata.category(char)[0] != "C" and unicodedata.category(char) not in ("Zl", "Zp") for char in text)


def _without_domain(name: str) -> str:
    domain, backslash, user = name.partition("\\")
    if not backslash:
        return name
    return "" if not domain or "\\" in user else user.strip()


def _is_address_or_plain(name: str) -> bool:
    local, at, domain = name.partition("@")
    return not at or (bool(local) and bool(domain) and "@" not in domain)
