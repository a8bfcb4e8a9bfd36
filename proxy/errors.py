"""The words for what goes wrong: why a login is refused, and whose fault an exception is.

Nothing here renders wire text: the fronts turn an Answer into bytes, each in one table.
"""

from __future__ import annotations

from enum import Enum
from typing import Self


class Answer(Enum):
    """What the client is told. One wire answer per member; many causes share one."""

    CREDENTIALS = "credentials"
    AUTHORIZATION = "authorization"
    PRIVACY = "privacy"
    UNAVAILABLE = "unavailable"
    LIMIT = "limit"
    CONTACT_ADMIN = "contact_admin"
    PROTOCOL_OFF = "protocol_off"  # CONTACT_ADMIN on the wire, with words that name the tenant's switch
    TOO_MANY_FAILURES = "too_many_failures"
    CLOSING = "closing"


class Refusal(Enum):
    """Why a login is refused: the cause that log and audit know. The client sees `answer` only."""

    answer: Answer

    def __new__(cls, word: str, answer: Answer) -> Self:
        member = object.__new__(cls)
        member._value_ = word
        member.answer = answer
        return member

    UNKNOWN_USER = "unknown_user", Answer.CREDENTIALS
    MALFORMED_CREDENTIALS = "malformed_credentials", Answer.CREDENTIALS
    NOT_AN_APP_PASSWORD = "not_an_app_password", Answer.CREDENTIALS  # a typo, a guess, or the user's real password
    WRONG_PASSWORD = "wrong_password", Answer.CREDENTIALS
    REVOKED = "revoked", Answer.CREDENTIALS
    SUSPENDED = "suspended", Answer.CREDENTIALS
    EXPIRED = "expired", Answer.CREDENTIALS
    WRONG_PROTOCOL = "wrong_protocol", Answer.CREDENTIALS
    WRONG_NETWORK = "wrong_network", Answer.CREDENTIALS
    WRONG_LISTENER = "wrong_listener", Answer.CREDENTIALS
    ACCOUNT_DISABLED = "account_disabled", Answer.CREDENTIALS
    WRONG_AUTHZID = "wrong_authzid", Answer.AUTHORIZATION
    CLEAR_TEXT = "clear_text", Answer.PRIVACY
    HASH_QUEUE_FULL = "hash_queue_full", Answer.UNAVAILABLE
    STORE_DOWN = "store_down", Answer.UNAVAILABLE
    PROVIDER_DOWN = "provider_down", Answer.UNAVAILABLE
    CLIENT_REJECTED = "client_rejected", Answer.UNAVAILABLE  # our own client id or secret, for every user at once
    UPSTREAM_DOWN = "upstream_down", Answer.UNAVAILABLE
    UPSTREAM_UNTRUSTED = "upstream_untrusted", Answer.UNAVAILABLE
    LOGIN_DEADLINE = "login_deadline", Answer.UNAVAILABLE
    INTERNAL = "internal", Answer.UNAVAILABLE  # a bug of ours; the log has it whole
    THROTTLED = "throttled", Answer.LIMIT
    UPSTREAM_BUSY = "upstream_busy", Answer.LIMIT
    NEEDS_CONSENT = "needs_consent", Answer.CONTACT_ADMIN
    UPSTREAM_REFUSES = "upstream_refuses", Answer.CONTACT_ADMIN
    UPSTREAM_PROTOCOL_OFF = "upstream_protocol_off", Answer.PROTOCOL_OFF
    CONNECTION_CAP = "connection_cap", Answer.CLOSING
    SHUTTING_DOWN = "shutting_down", Answer.CLOSING


class GatepostError(Exception):
    """Base of every exception that Gatepost raises on purpose."""


class Refused(GatepostError):
    """A login ends here. All but `refusal` is for log and audit: never a secret, never sent to the client.

    user            the account's e-mail once the account is known, whatever name was typed
    app_password    public id of the one that was meant, as far as its selector tells; `name` is its name
    """

    def __init__(self, refusal: Refusal, detail: str = "") -> None:
        super().__init__(f"{refusal.value}: {detail}" if detail else refusal.value)
        self.refusal = refusal
        self.detail = detail
        self.user = ""
        self.app_password = ""
        self.name = ""


class OperatorError(GatepostError):
    """A command or set-up that cannot be carried out as asked: the problem and its remedy, one line together."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}" if remedy else problem)
        self.problem = problem
        self.remedy = remedy


class ConfigError(OperatorError):
    """The configuration, or a file that it names, is wrong."""


class StoreError(OperatorError):
    """The store cannot do what was asked: a duplicate, something unknown, a newer schema."""


class StoreBroken(StoreError):
    """The store itself is not as it should be: damaged, another program's, without one of its tables."""


class ConsentError(OperatorError):
    """A sign-in at an identity provider gave nothing that may be kept; nothing was stored."""


class StoreUnavailable(GatepostError):
    """The store did not answer: down, locked, its disk full, or slower than its deadline."""

    remedy = "start the database, free its disk or what locks it, or correct [store] url"


class StoreDenied(StoreError, StoreUnavailable):
    """The store lets us in but not do this: the operator's to mend, and until then a running server's outage."""


class ProtocolError(GatepostError):
    """The peer broke its protocol. `text` is constant and says how; never what was sent."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class UpstreamFault(Enum):
    """What the mail server upstream did instead of letting us in."""

    UNREACHABLE = "unreachable"  # no address, refused, reset, closed early, a BYE or 4xx/5xx greeting
    SILENT = "silent"  # the dial deadline passed
    UNTRUSTED = "untrusted"  # certificate or TLS failure, no STARTTLS, PREAUTH, bytes before the handshake
    GARBAGE = "garbage"  # not the protocol, or longer than our bounds
    UNAVAILABLE = "unavailable"  # it says that it cannot check right now
    BUSY = "busy"  # too many connections, throttled
    REFUSED = "refused"  # it checked and does not accept this credential
    PROTOCOL_OFF = "protocol_off"  # the protocol is switched off for this mailbox or tenant (5.7.139)


class UpstreamError(GatepostError):
    """The upstream server did not let us in. `said` is its last line, printable, cut to 200 characters."""

    def __init__(self, fault: UpstreamFault, said: str = "") -> None:
        super().__init__(f"{fault.value}: {said}" if said else fault.value)
        self.fault = fault
        self.said = said


class ProviderFault(Enum):
    """What the identity provider's token endpoint did instead of giving a token."""

    DOWN = "down"  # no answer, 5xx, 429, or not OAuth2: keep the token and try again later
    GRANT_LOST = "grant_lost"  # invalid_grant and its relatives: a person must sign in again
    CLIENT_REJECTED = "client_rejected"  # invalid_client, unauthorized_client: our registration, for all accounts


class ProviderError(GatepostError):
    """No token from the identity provider. `code` is its error code (RFC 6749 5.2, AADSTS number), never a token."""

    def __init__(self, fault: ProviderFault, code: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(f"{fault.value}: {code}" if code else fault.value)
        self.fault = fault
        self.code = code
        self.retry_after_s = retry_after_s
