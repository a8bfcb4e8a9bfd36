"""The identity provider as a test sees it: its addresses, its client, and the levers that no real provider has."""

import base64
import hashlib
import hmac
import http.client
import json
import secrets
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.lab.process import Account, LabError, Part, Server
from tests.lab.programs import IDP_SOURCE, find_node

LEVER_TIMEOUT_S = 10.0
DEFAULT_TOKEN_LENGTH = 43
TOTP_STEP_S = 30
MFA = ("pwd", "otp", "mfa")  # RFC 8176

FaultKind = Literal["late", "hang", "500", "429", "invalid_client", "drop", "lose_answer"]


@dataclass(frozen=True, slots=True)
class TokenRequests:
    """How often the token endpoint was asked, faulted requests included; user "" is for tokens unknown by then."""

    by_grant: dict[str, int]
    refresh_by_user: dict[str, int]

    @property
    def refreshes(self) -> int:
        """All refresh requests together."""
        return self.by_grant.get("refresh_token", 0)


@dataclass(frozen=True, slots=True)
class User:
    """A person at the identity provider."""

    email: str
    password: str
    totp_secret: str

    @classmethod
    def make(cls, email: str) -> "User":
        """Return a user with a new password and TOTP secret (base32)."""
        return cls(email, secrets.token_urlsafe(12), base64.b32encode(secrets.token_bytes(20)).decode())


class Idp(Part):
    """oidc-provider on Node, at `issuer`; every address is plain HTTP on loopback."""

    def __init__(
        self, server: Server, port: int, users: dict[str, User], *, directory: Path, account: Account, ttl_s: int
    ) -> None:
        self.server = server
        self.issuer = f"http://127.0.0.1:{port}"
        self.authorize_url = f"{self.issuer}/auth"
        self.token_url = f"{self.issuer}/token"
        self.device_url = f"{self.issuer}/device/auth"
        self.introspection_url = f"{self.issuer}/token/introspection"
        self.revocation_url = f"{self.issuer}/token/revocation"
        self.scope = "openid offline_access mail"
        self.redirect_uri = "http://127.0.0.1/callback"  # registered from the start; see allow_redirect()
        self.client_id, self.client_secret = "gatepost", secrets.token_urlsafe(24)
        self.introspection_client_id, self.introspection_client_secret = "dovecot", secrets.token_urlsafe(24)
        self._port = port
        self._users = users
        self._directory = directory
        self._account = account
        self._lab_key = secrets.token_urlsafe(24)
        self._cookie_key = secrets.token_urlsafe(24)
        self._redirect_uris = [self.redirect_uri]
        self._settings: dict[str, Any] = {
            "ttl_s": ttl_s,
            "access_token_length": DEFAULT_TOKEN_LENGTH,
            "app_mailbox": "",
            "delegates": {},
            "amr": list(MFA),
            "id_claims": {},
            "login_age_s": 0,
        }

    def launch(self) -> None:
        """Write the configuration and start Node."""
        self._directory.mkdir(exist_ok=True)
        self._account.own(self._directory)
        config = self._directory / "config.json"
        config.touch(mode=0o600)
        config.write_text(
            json.dumps(
                {
                    "port": self._port,
                    "issuer": self.issuer,
                    "state_file": str(self._state_file),
                    "client_id": self.client_id,
                    "client_secret": self.client_secret,
                    "introspection_client_id": self.introspection_client_id,
                    "introspection_client_secret": self.introspection_client_secret,
                    "redirect_uris": self._redirect_uris,
                    "lab_key": self._lab_key,
                    "cookie_key": self._cookie_key,
                    "users": {
                        user.email: {"password": user.password, "totp_secret": user.totp_secret}
                        for user in self._users.values()
                    },
                    **self._settings,
                }
            )
        )
        self._account.own(config)
        self.server.launch(
            [str(find_node()), IDP_SOURCE / "idp.mjs", config], cwd=self._directory, env={"NODE_NO_WARNINGS": "1"}
        )

    def await_ready(self) -> None:
        """Wait until it answers HTTP."""
        self.server.wait_until(self._answers)

    def forget(self) -> None:
        """Throw away every token, grant and session while stopped; without this a restart keeps them."""
        if self.is_running:
            raise LabError("lab: stop the identity provider before it is made to forget")
        self._state_file.unlink(missing_ok=True)

    def set_fault(self, kind: FaultKind, *, delay_ms: int = 0, times: int | None = None) -> None:
        """Spoil the token endpoint's answers.

        kind      "late": the work is done at once, the answer comes after delay_ms; "hang": no answer, ever;
                  "500", "429" (Retry-After: 1), "invalid_client": that answer, and no work done;
                  "drop": the connection is closed, no work done;
                  "lose_answer": the work is done (a refresh token rotated), then the connection is closed
        times     only the next so many requests; None means until clear_fault(). A restart clears it too
        """
        self._pull("fault", kind=kind, delay_ms=delay_ms, times=times)

    def clear_fault(self) -> None:
        """Let the token endpoint answer again; requests that hang stay so."""
        self._pull("fault", kind=None)

    def set_ttl(self, seconds: int) -> None:
        """Set the life of the access tokens issued from now on."""
        self._set(ttl_s=seconds)

    def set_token_length(self, characters: int) -> None:
        """Set the length of the access tokens issued from now on (43 at first; real ones have up to some 3000)."""
        self._set(access_token_length=characters)

    def set_app_mailbox(self, user: str) -> None:
        """Set the mailbox that client_credentials tokens issued from now on open (none at first).

        Dovecot compares a token with one login name, so unlike a real tenant's such a token opens one mailbox only.
        """
        self._set(app_mailbox=user)

    def set_delegates(self, delegates: dict[str, str]) -> None:
        """Set whose tokens open which other mailbox from now on, as a member's open a shared one; user -> mailbox."""
        self._set(delegates=delegates)

    def set_amr(self, *methods: str) -> None:
        """Set how people are said to have shown who they are (RFC 8176), from their next sign-in on."""
        self._set(amr=list(methods))

    def set_login_age(self, seconds: int) -> None:
        """Set how long ago people are said to have signed in (auth_time), from their next sign-in on."""
        self._set(login_age_s=seconds)

    def set_id_claims(self, user: str, **claims: object) -> None:
        """Set what ID tokens say of a user over sub, email and email_verified, from now on; nothing: that alone."""
        self._set(id_claims={**self._settings["id_claims"], user: claims})

    def token_requests(self, *, reset: bool = False) -> TokenRequests:
        """Return the counts since the start or the last reset; reset=True counts from zero and returns that."""
        return TokenRequests(**self._pull("token-requests", reset=reset))

    def revoke(self, user: str) -> None:
        """End all grants, tokens and sign-in sessions of a user."""
        self._pull("revoke", user=user)

    def add_signed_client(self, client_id: str, public_jwk: dict[str, str], *, refresh_tokens: bool = True) -> None:
        """Register a client that says who it is by a signature (private_key_jwt); gone after forget()."""
        self._pull("signed-client", client_id=client_id, jwk=public_jwk, refresh_tokens=refresh_tokens)

    def add_service_account(
        self, email: str, key_id: str, public_jwk: dict[str, str], mailboxes: Iterable[str]
    ) -> None:
        """Register a service account that may get tokens in the name of mailboxes, as Google has them; for this run."""
        self._pull("service-account", email=email, key_id=key_id, jwk=public_jwk, mailboxes=list(mailboxes))

    def allow_redirect(self, uri: str) -> None:
        """Register one more redirect URI for the client, compared exactly; on loopback without a port, with any."""
        self._redirect_uris.append(uri)
        self._pull("redirect-uri", uri=uri)

    def refresh_token(self, user: str) -> str:
        """Make a grant and its refresh token for a user, as a sign-in would; not counted as a token request."""
        return str(self._pull("refresh-token", user=user)["refresh_token"])

    def access_token(self, user: str) -> str:
        """Make a grant and its access token for a user; not counted as a token request."""
        return str(self._pull("access-token", user=user)["access_token"])

    @property
    def _state_file(self) -> Path:
        return self._directory / "state.json"

    def _set(self, **settings: Any) -> None:
        self._settings.update(settings)  # so that a restart keeps them
        self._pull("settings", **settings)

    def _answers(self) -> bool:
        try:
            return self._request("GET", "/lab/ready", None)[0] == http.HTTPStatus.OK
        except OSError:
            return False

    def _pull(self, lever: str, **arguments: object) -> dict[str, Any]:
        status, text = self._request("POST", f"/lab/{lever}", json.dumps(arguments))
        if status != http.HTTPStatus.OK:
            raise LabError(f"lab: the identity provider answered {status} to {lever}: {text}")
        answer: dict[str, Any] = json.loads(text)
        return answer

    def _request(self, method: str, path: str, body: str | None) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=LEVER_TIMEOUT_S)
        try:
            connection.request(method, path, body, {"x-lab-key": self._lab_key})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()


def totp_code(secret: str, at: float | None = None) -> str:
    """Return the six-digit code of a base32 secret at a Unix time (now).

    Source: RFC 6238 with SHA-1 and 30 s steps; truncation by RFC 4226 5.3.
    """
    counter = struct.pack(">Q", int((time.time() if at is None else at) // TOTP_STEP_S))
    digest = hmac.digest(base64.b32decode(secret), counter, hashlib.sha1)
    offset = digest[-1] & 0x0F
    (number,) = struct.unpack(">I", digest[offset : offset + 4])
    return f"{(number & 0x7FFFFFFF) % 1_000_000:06d}"
