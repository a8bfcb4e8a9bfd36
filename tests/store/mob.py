"""One process of a mob that creates, revokes and logs in at random; says in JSON what it was told.

python -m tests.store.mob URL SEED ACTS
"""

from __future__ import annotations

import json
import random
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime

from proxy.errors import StoreError
from proxy.login.rules import Wanted, judge
from proxy.store.rows import Account, CredentialState, NewCredential
from proxy.store.store import Store

NAMES = tuple(f"app{number}" for number in range(12))  # few, so that all want the same


@dataclass
class Member:
    """What one process did. `broken` tells of what the model does not allow, as seen by itself."""

    created: list[str] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)
    refused: int = 0  # creates of a name that was in use
    logins: int = 0
    broken: list[str] = field(default_factory=list)

    def act(self, store: Store, account: Account, dice: random.Random) -> None:
        known = store.credentials(account.id)
        deed = dice.choice(("create", "revoke", "login", "login"))
        if deed == "create" or not known:
            self.create(store, account, dice)
            return
        one = dice.choice(known).public_id
        if deed == "revoke":
            (after,) = store.revoke([one])
            self.revoked.append(one)
            if after.state is not CredentialState.REVOKED:
                self.broken.append(f"{one} is {after.state} after its revocation")
        else:
            self.log_in(store, account, one)

    def create(self, store: Store, account: Account, dice: random.Random) -> None:
        public_id = f"{dice.getrandbits(64):016x}"
        new = NewCredential(
            public_id, account.id, dice.choice(NAMES), frozenset({"imap"}), (), None, "mob", public_id, "phc"
        )
        try:
            store.add_credential(new)
        except StoreError:
            self.refused += 1
        else:
            self.created.append(public_id)

    def log_in(self, store: Store, account: Account, public_id: str) -> None:
        self.logins += 1
        row = store.find_login(account.email, public_id)  # its selector here
        wanted = Wanted("imap", "192.0.2.7", ("mail",), account.email, "")
        refusal = "unknown" if row is None else judge(row, wanted, datetime.now(UTC))
        if public_id in self.revoked and refusal is None:
            self.broken.append(f"{public_id} lets in after its revocation")


def main(url: str, seed: str, acts: str) -> None:
    member, dice = Member(), random.Random(int(seed))
    store = Store.open(url, migrate=False, wait_s=30)
    try:
        accounts = store.accounts()
        for _ in range(int(acts)):
            member.act(store, dice.choice(accounts), dice)
    finally:
        store.close()
    json.dump(vars(member), sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
