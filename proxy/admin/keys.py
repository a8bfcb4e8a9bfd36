"""`gatepost key rotate`: a new master key, and everything under the old one wrapped anew, beside running servers.

A key that is a systemd credential is changed by root on the host: first the credential gets a new key in front of the
old (`key new`) and the service is restarted, then the service, which alone reads it, wraps anew (rotate_held), then
root takes the old one out. The same order, and as safe at every step.

The order is the safety: the file has the new key before the store names it, the store names it before anything is
under it, and the old one goes only when nothing is. So every server can open everything at every moment (it reads the
file again when it meets a key id it doesn't know), and a rotation that was killed anywhere is finished by the next.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from proxy.admin.desk import Desk
from proxy.errors import ConfigError, OperatorError, StoreError
from proxy.store.rows import MasterKey, Recipient

if TYPE_CHECKING:
    from proxy.vault.sealing import MasterPrivate  # cryptography: imported by the verb

PAGE = 100  # rows of one transaction: a few milliseconds
ROUNDS = 20  # each further one only for what somebody sealed to the old key meanwhile


@dataclass(frozen=True, slots=True)
class Rotated:
    """What was done. `has_resumed`: an earlier rotation was finished, and `master` is the key that it had made."""

    master: str
    path: Path | None  # None: a credential
    has_resumed: bool
    secrets: int  # wrapped anew by this run
    app_keys: int
    dropped: tuple[str, ...]  # key ids


def rotate(desk: Desk, *, page: int = PAGE) -> Rotated:
    """Make a new master key and let go of the former.

    raises  OperatorError: the key is no file, another rotation runs, the file can't be written, or something stored
            can't be opened (then both keys stay)
    """
    from proxy.vault.files import alone_in  # noqa: PLC0415 - with the others

    source = desk.config.keys.master
    if source.kind != "file":
        raise OperatorError(
            f"[keys] master is {source}, which Gatepost can read but not change",
            'run key rotate with a configuration that says "file:..." and has the same key in that file, '
            "then put the file's new text where the service reads it, and restart it",
        )
    path = Path(source.name)
    try:
        with alone_in(path.resolve().parent) as is_alone:
            if not is_alone:
                raise OperatorError("another gatepost key rotate is running", "wait for its end")
            return _rotate(desk, path, page)
    except OSError as error:
        raise OperatorError(
            f"cannot change {path}: {error.strerror or error}", "run it as root, or as the file's owner"
        ) from None


def hand_over_new(stream: TextIO) -> None:
    """Write a new master key, a line for the front of a credential's text, to a pipe or file. Raises OperatorError."""
    from proxy.vault.files import hand_over  # noqa: PLC0415 - with the others
    from proxy.vault.sealing import generate_master  # noqa: PLC0415 - cryptography

    try:
        hand_over(generate_master()[0], stream)
    except ValueError:
        raise OperatorError(
            "a master key is not for a terminal", "let systemd-creds read it from a pipe: docs/operations.md"
        ) from None
    except OSError as error:
        raise OperatorError(f"the key could not be written: {error.strerror}", "look at where stdout goes") from None


def rotate_held(desk: Desk, *, page: int = PAGE) -> Rotated:
    """Let go of the former key of a credential that has a new one in front already; for the service itself.

    raises  OperatorError: there is no new key in it, or something stored can't be opened (then both keys stay)
    """
    from proxy.vault.sealing import load_master  # noqa: PLC0415 - cryptography

    source = desk.config.keys.master
    held = load_master(source.read())
    known = _known(desk, held, str(source))
    newest = known[0]
    if len(known) == 1 and held.key_ids[0] == newest.key_id:
        raise OperatorError(
            f"{source} has no new key in front of the one in use",
            "put one there first (gatepost key new), restart the service, and run this again: docs/operations.md",
        )
    return _let_go(desk, held, known, page)


def _known(desk: Desk, held: MasterPrivate, name: str) -> list[MasterKey]:
    known = desk.store.masters()
    if not known:
        raise StoreError("the store knows no master key", "run gatepost db upgrade first")
    if known[0].key_id not in held.key_ids:
        raise ConfigError(f"{name} is not the master key of this store", "restore the key that belongs to the database")
    return known


def _rotate(desk: Desk, path: Path, page: int) -> Rotated:
    from proxy.vault.files import replace_private  # noqa: PLC0415 - cryptography
    from proxy.vault.sealing import generate_master, load_master  # noqa: PLC0415 - cryptography

    held = load_master(desk.config.keys.master.read())
    known = _known(desk, held, str(path))
    newest = known[0]
    has_resumed = len(known) > 1 or held.key_ids[0] != newest.key_id
    if not has_resumed:
        text, _ = generate_master()
        held = held.with_newest(text)
        replace_private(path, held.text())
    done = _let_go(desk, held, known, page)
    _require_on_disk(desk, done.master)
    replace_private(path, held.text(done.master))
    return replace(done, path=path, has_resumed=has_resumed)


def _let_go(desk: Desk, held: MasterPrivate, known: list[MasterKey], page: int) -> Rotated:
    """Have the store name the first key that is held, wrap all anew to it, and drop the others from the store."""
    newest = known[0]
    if held.key_ids[0] not in {one.key_id for one in known}:
        newest = _introduce(desk, held, newest.created)
    former = tuple(one.key_id for one in known if one.key_id != newest.key_id)
    secrets = app_keys = 0
    for key_id in former:
        moved = _clear_out(desk, held, key_id, newest, page)
        secrets, app_keys = secrets + moved[0], app_keys + moved[1]
    return Rotated(newest.key_id, None, True, secrets, app_keys, former)


def _introduce(desk: Desk, held: MasterPrivate, after: datetime) -> MasterKey:
    """Name the new key to the store; from now on everybody seals to it."""
    # Newer than the former by its time, whatever the clock says: the newest is the one that is sealed to.
    created = max(datetime.now(UTC), after + timedelta(microseconds=1))
    key = held.newest_public(created)
    desk.store.add_master(key)
    return key


def _clear_out(desk: Desk, held: MasterPrivate, old: str, newest: MasterKey, page: int) -> tuple[int, int]:
    """Wrap anew what is under the old master until nothing is, and drop it. Returns how many secrets and app keys."""
    secrets = app_keys = 0
    for _ in range(ROUNDS):
        wrapped, lost = _rewrap_deposits(desk, held, old, newest, page)
        locked, broken = _relock_app_keys(desk, held, old, newest, page)
        secrets, app_keys = secrets + wrapped, app_keys + locked
        if desk.store.drop_master(old) == 0:
            return secrets, app_keys
        owners = sorted({*lost, *broken})
        if owners and not (wrapped or locked):
            emails = [account.email for account in desk.store.accounts() if account.id in owners]
            raise OperatorError(
                f"something stored for {', '.join(emails)} cannot be opened: the old master key stays beside the new",
                f"gatepost account connect {emails[0] if emails else 'EMAIL'}, then gatepost key rotate again",
            )
    raise OperatorError("something is still being sealed to the old master key", "run gatepost key rotate again")


def _rewrap_deposits(desk: Desk, held: MasterPrivate, old: str, newest: MasterKey, page: int) -> tuple[int, list[int]]:
    from proxy.vault.sealing import SealBroken, wrap_for  # noqa: PLC0415 - cryptography

    recipient = Recipient(newest.key_id, newest.public)
    done, lost, after = 0, [], ""
    while deposits := desk.store.wraps_under(old, after, page):
        pairs = []
        for deposit in deposits:
            try:
                pairs.append((deposit, wrap_for(deposit, held, recipient)))
            except SealBroken:
                lost.append(deposit.account_id)
        done += desk.store.replace_wraps(pairs)
        after = deposits[-1].row
    return done, lost


def _relock_app_keys(desk: Desk, held: MasterPrivate, old: str, newest: MasterKey, page: int) -> tuple[int, list[int]]:
    from proxy.vault.sealed import relocked  # noqa: PLC0415 - cryptography
    from proxy.vault.sealing import SealBroken  # noqa: PLC0415 - cryptography

    done, lost, after = 0, [], ""
    while keys := desk.store.app_keys_under(old, after, page):
        pairs = []
        for key in keys:
            try:
                pairs.append((key, relocked(key, held, newest)))
            except SealBroken:
                lost.append(key.account_id)
        done += desk.store.replace_app_keys(pairs)
        after = keys[-1].key_id
    return done, lost


def _require_on_disk(desk: Desk, key_id: str) -> None:
    """The last look before the old key goes: the new one must be where servers read it."""
    from proxy.vault.sealing import load_master  # noqa: PLC0415 - cryptography

    if key_id not in load_master(desk.config.keys.master.read()).key_ids:
        raise ConfigError("the master key's file was changed by somebody else", "restore it, and run key rotate again")
