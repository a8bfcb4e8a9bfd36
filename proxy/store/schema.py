"""The tables, as SQLAlchemy Core sees them. The migrations make them; a test holds the two together.

Ids of accounts, app passwords and secrets are never used twice (AUTOINCREMENT, sequences): caches, live sessions and
the associated data of sealed deposits name rows by them.

Partial indexes name their condition for SQLite only: PostgreSQL has the same, by the migrations, but naming it here
would load that dialect with its five drivers into every command.
"""

from __future__ import annotations

from enum import Enum

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.types import Enum as EnumColumn

from proxy.store.audit_rows import Event
from proxy.store.rows import AccountState, CredentialState, Purpose, TokenState
from proxy.store.types import UtcDateTime, Words

HEAD = "0004"  # the newest migration; revisions are numbers of four digits, so that older and newer can be told apart

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)


def _word(kind: type[Enum]) -> EnumColumn:
    # No CHECK and no native type: a later state must not need a rebuilt table.
    return EnumColumn(
        kind, native_enum=False, length=32, values_callable=lambda members: [member.value for member in members]
    )


account = Table(
    "account",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("email", Text, nullable=False),  # unique through login_name, which always holds it too
    Column("upstream", Text, nullable=False),
    Column("upstream_user", Text, nullable=False),
    Column("state", _word(AccountState), nullable=False),
    Column("sealed", Boolean, nullable=False),
    Column("token_state", _word(TokenState), nullable=False),
    Column("token_since", UtcDateTime, nullable=False),
    Column("token_detail", Text, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("created_by", Text, nullable=False),
    sqlite_autoincrement=True,
)

login_name = Table(  # e-mails and aliases of all accounts: what a client may log in as
    "login_name",
    metadata,
    Column("name", Text, primary_key=True),
    Column("account_id", ForeignKey(account.c.id, ondelete="CASCADE"), nullable=False, index=True),
)

credential = Table(  # an app password as people see it
    "credential",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("public_id", Text, nullable=False),
    Column("account_id", ForeignKey(account.c.id, ondelete="CASCADE"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("protocols", Words, nullable=False),
    Column("networks", Words, nullable=False),
    Column("state", _word(CredentialState), nullable=False),
    Column("expires", UtcDateTime),
    Column("generation", Integer, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("created_by", Text, nullable=False),
    # The last use sits in the row: one join less at each login, and a batch of uses cannot fail on a missing key.
    Column("last_at", UtcDateTime),
    Column("last_address", Text),
    Column("last_protocol", Text),
    Column("last_client", Text),
    UniqueConstraint("public_id"),
    sqlite_autoincrement=True,
)

Index(  # the name of a revoked app password is free again
    "uq_credential_live_name",
    credential.c.account_id,
    credential.c.name,
    unique=True,
    sqlite_where=credential.c.state != CredentialState.REVOKED,
)

secret = Table(  # what argon2 verifies; rows outlive their revocation, so that no selector comes twice
    "secret",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("account_id", ForeignKey(account.c.id, ondelete="CASCADE"), nullable=False),
    Column("credential_id", ForeignKey(credential.c.id, ondelete="CASCADE"), nullable=False, index=True),
    Column("selector", Text, nullable=False),
    Column("phc", Text, nullable=False),
    Column("valid_until", UtcDateTime),
    Column("created", UtcDateTime, nullable=False),
    UniqueConstraint("account_id", "selector"),
    sqlite_autoincrement=True,
)

recipient = Table(  # public halves that deposits are sealed to: masters, and secrets of sealed accounts
    "recipient",
    metadata,
    Column("key_id", Text, primary_key=True),
    Column("public", LargeBinary, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("secret_id", ForeignKey(secret.c.id, ondelete="CASCADE")),  # null: a master
    Column("sealed_private", LargeBinary),  # under the app password and the master; a master's own is never here
    UniqueConstraint("secret_id"),
    CheckConstraint("(secret_id IS NULL) = (sealed_private IS NULL)", name="private_of_secret"),
)

deposit = Table(  # one upstream secret per account and purpose
    "deposit",
    metadata,
    Column("row_id", Text, primary_key=True),
    Column("account_id", ForeignKey(account.c.id, ondelete="CASCADE"), nullable=False),
    Column("purpose", _word(Purpose), nullable=False),
    Column("ciphertext", LargeBinary, nullable=False),
    Column("valid_until", UtcDateTime),
    Column("created", UtcDateTime, nullable=False),
    UniqueConstraint("account_id", "purpose"),
)

wrap = Table(
    "wrap",
    metadata,
    Column("row_id", ForeignKey(deposit.c.row_id, ondelete="CASCADE"), primary_key=True),
    Column("key_id", ForeignKey(recipient.c.key_id, ondelete="CASCADE"), primary_key=True, index=True),
    Column("blob", LargeBinary, nullable=False),
)

lease = Table(  # who may refresh an account's token; made with the account, so that taking it is one UPDATE
    "lease",
    metadata,
    Column("account_id", ForeignKey(account.c.id, ondelete="CASCADE"), primary_key=True),
    Column("owner", Text),
    Column("fence", BigInteger, nullable=False),  # only ever rises
    Column("until", UtcDateTime),  # null: free
)

learned = Table(  # what an upstream announced after login, for the lists that the fronts show before it
    "learned",
    metadata,
    Column("upstream", Text, primary_key=True),
    Column("protocol", Text, primary_key=True),
    Column("extensions", Words, nullable=False),
    Column("learned_at", UtcDateTime, nullable=False),
)

told = Table(  # the trouble that people were last told of by an alert; no row: that all is well
    "told",
    metadata,
    Column("subject", Text, primary_key=True),  # "account:17" or "upstream:name"; upkeep's claims stand here, too
    Column("account_id", ForeignKey(account.c.id, ondelete="CASCADE")),  # null: an upstream, or a claim
    Column("state", Text, nullable=False),
    Column("since", UtcDateTime, nullable=False),
    UniqueConstraint("account_id"),
)

audit = Table(  # belongs to no account: it outlives what it tells of
    "audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", UtcDateTime, nullable=False, index=True),
    Column("event", _word(Event), nullable=False),
    Column("actor", Text, nullable=False),
    Column("node", Text, nullable=False),
    Column("worker", Integer),  # null: a command or the web page
    Column("account", Text, nullable=False),
    Column("app_password", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("protocol", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("cause", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("count", Integer, nullable=False),
    Column("until", UtcDateTime),
    Column("untold", Boolean, nullable=False),  # an alert is still to be sent of it
    Index("ix_audit_account_id", "account", "id"),
    sqlite_autoincrement=True,
)

Index("ix_audit_untold", audit.c.id, sqlite_where=audit.c.untold)

sighting = Table(  # where an app password was used from, so that the first use of a day and of a network is known
    "sighting",
    metadata,
    Column("credential_id", ForeignKey(credential.c.id, ondelete="CASCADE"), primary_key=True),
    Column("address", Text, primary_key=True),
    Column("network", Text, nullable=False),
    Column("last_at", UtcDateTime, nullable=False),
)

worker = Table(  # processes that publish live sessions; one that stops renewing its lease is dead
    "worker",
    metadata,
    Column("id", Text, primary_key=True),
    Column("node", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("until", UtcDateTime, nullable=False),
)

session = Table(  # as last published; without foreign keys to what a revocation takes away before the session ends
    "session",
    metadata,
    Column("id", Text, primary_key=True),
    Column("worker_id", ForeignKey(worker.c.id, ondelete="CASCADE"), nullable=False, index=True),
    Column("account_id", Integer, nullable=False, index=True),
    Column("email", Text, nullable=False),
    Column("public_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("protocol", Text, nullable=False),
    Column("upstream", Text, nullable=False),
    Column("upstream_user", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("client", Text, nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("is_kicked", Boolean, nullable=False),
    Index("ix_session_mailbox", "upstream", "upstream_user", "protocol"),
)

person = Table(  # who signed in at the web page: known by what the provider never gives to anybody else
    "person",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("issuer", Text, nullable=False),
    Column("tenant", Text, nullable=False),  # Entra's tid; "" elsewhere
    Column("subject", Text, nullable=False),  # Entra's oid; elsewhere sub
    Column("address", Text, nullable=False),  # that the provider vouched for at the last sign-in; "" for none
    Column("display", Text, nullable=False),  # an e-mail for people to read; nobody vouches for it
    Column("created", UtcDateTime, nullable=False),
    Column("last_seen", UtcDateTime, nullable=False),
    UniqueConstraint("issuer", "tenant", "subject"),
    sqlite_autoincrement=True,
)

binding = Table(  # whose mailbox an account is: made at the owner's first sign-in, and nobody else's from then on
    "binding",
    metadata,
    Column("account_id", ForeignKey(account.c.id, ondelete="CASCADE"), primary_key=True),
    Column("person_id", ForeignKey(person.c.id, ondelete="CASCADE"), nullable=False, index=True),
    Column("created", UtcDateTime, nullable=False),
)

access_grant = Table(  # who else may look after an account, by the administrator's word
    "access_grant",
    metadata,
    Column("account_id", ForeignKey(account.c.id, ondelete="CASCADE"), primary_key=True),
    Column("grantee", Text, primary_key=True),  # an e-mail, or ISSUER#SUBJECT
    Column("person_id", ForeignKey(person.c.id, ondelete="CASCADE"), index=True),  # null: not seen yet
    Column("created", UtcDateTime, nullable=False),
    Column("created_by", Text, nullable=False),
)

web_session = Table(
    "web_session",
    metadata,
    Column("id_hash", Text, primary_key=True),  # the id itself is in one browser alone
    Column("person_id", ForeignKey(person.c.id, ondelete="CASCADE"), nullable=False, index=True),
    Column("is_admin", Boolean, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("last_seen", UtcDateTime, nullable=False),
    Column("expires", UtcDateTime, nullable=False, index=True),
    Column("auth_time", UtcDateTime, nullable=False),
    Column("amr", Words, nullable=False),
    Column("acr", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("held_for", ForeignKey(account.c.id, ondelete="SET NULL")),  # a sealed account
    Column("held", LargeBinary),  # its new token, under a key made of the session's id
)

spent = Table(  # what counts once: states of sign-ins, forms that make an app password
    "spent",
    metadata,
    Column("token_hash", Text, primary_key=True),
    Column("until", UtcDateTime, nullable=False, index=True),
)

revision = Table(  # one row; raised by every change that live sessions must notice
    "revision",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("value", BigInteger, nullable=False),
    CheckConstraint("id = 1", name="one_row"),
)
