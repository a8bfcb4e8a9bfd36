"""The practice provider: OpenID sign-in with password and one-time code, authorization codes with PKCE, refresh tokens.

Starlette serves it, joserfc signs its ID tokens. It has what the demo's story and its reader's browser need, and holds
all in memory.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import html
import secrets
import time
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode

from joserfc import jwt
from joserfc.jwk import ECKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.lab.idp import MFA, User, totp_code

TTL_S = 3600
CODE_S = 60.0
PAGE = """<!doctype html><html lang="en"><title>Practice sign-in</title><h1>Practice sign-in</h1>{notice}
<form method="post" action="/auth/{ticket}">
<p><label>User <input name="login" value="{hint}" autocomplete="username"></label>
<p><label>Password <input name="password" type="password" autocomplete="current-password"></label>
<p><label>One-time code <input name="code" inputmode="numeric" autocomplete="one-time-code"></label>
<p><button>Sign in</button></form></html>"""


@dataclass(slots=True)
class Asked:
    """An authorization request that waits for its person, or for the exchange of its code."""

    query: dict[str, str]
    user: str = ""
    signed_in_at: float = 0.0


@dataclass(slots=True)
class Provider:
    """Its people, its one client, and the tokens it gave. `app` is what a server serves."""

    issuer: str
    users: dict[str, User]
    client_id: str = "gatepost"
    client_secret: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    scope: str = "openid offline_access mail"
    redirects: set[str] = field(default_factory=set)
    _key: ECKey = field(default_factory=lambda: ECKey.generate_key("P-256", {"kid": "practice"}))
    _asked: dict[str, Asked] = field(default_factory=dict)  # by ticket, then by code
    _refresh: dict[str, str] = field(default_factory=dict)  # token -> user
    _access: dict[str, tuple[str, float]] = field(default_factory=dict)  # token -> user, end (monotonic)

    @property
    def token_url(self) -> str:
        return f"{self.issuer}/token"

    def allow_redirect(self, uri: str) -> None:
        """Register one more address that browsers may be sent back to."""
        self.redirects.add(uri)

    def refresh_token(self, user: str) -> str:
        """A new refresh token, as after a sign-in."""
        token = secrets.token_urlsafe(32)
        self._refresh[token] = user
        return token

    def access_token(self, user: str) -> str:
        token = secrets.token_urlsafe(32)
        self._access[token] = user, time.monotonic() + TTL_S
        return token

    def owner_of(self, access_token: str) -> str | None:
        """Whose mailbox a token opens now; what the mail servers ask."""
        user, end = self._access.get(access_token, ("", 0.0))
        return user if time.monotonic() < end else None

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self._discovery),
                Route("/jwks", self._jwks),
                Route("/auth", self._authorize),
                Route("/auth/{ticket}", self._sign_in, methods=["POST"]),
                Route("/token", self._token, methods=["POST"]),
            ]
        )

    async def _discovery(self, _: Request) -> Response:
        return JSONResponse(
            {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/auth",
                "token_endpoint": self.token_url,
                "jwks_uri": f"{self.issuer}/jwks",
                "scopes_supported": self.scope.split(),
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
            }
        )

    async def _jwks(self, _: Request) -> Response:
        return JSONResponse({"keys": [self._key.as_dict(private=False)]})

    async def _authorize(self, request: Request) -> Response:
        query = dict(request.query_params)
        is_ours = (query.get("client_id"), query.get("code_challenge_method")) == (self.client_id, "S256")
        if not is_ours or query.get("redirect_uri") not in self.redirects:
            return HTMLResponse("<p>This client or address is not registered.</p>", 400)
        ticket = secrets.token_urlsafe(16)
        self._asked[ticket] = Asked(query)
        return self._page(ticket, query.get("login_hint", ""))

    def _page(self, ticket: str, hint: str, notice: str = "", status: int = 200) -> Response:
        return HTMLResponse(PAGE.format(ticket=ticket, hint=html.escape(hint, quote=True), notice=notice), status)

    async def _sign_in(self, request: Request) -> Response:
        ticket, form = request.path_params["ticket"], await _form(request)
        asked = self._asked.get(ticket)
        if asked is None:
            return HTMLResponse("<p>This sign-in is over. Start again.</p>", 400)
        user = self.users.get(form.get("login", "").strip().lower())
        if user is None or not self._is_proven(user, form):
            return self._page(ticket, form.get("login", ""), '<p role="alert">That was wrong. Try again.</p>', 401)
        code = secrets.token_urlsafe(24)
        del self._asked[ticket]
        asked.user, asked.signed_in_at = user.email, time.time()
        self._asked[code] = asked
        answer = {"code": code, "state": asked.query.get("state", ""), "iss": self.issuer}
        return RedirectResponse(f"{asked.query['redirect_uri']}?{urlencode(answer)}", 303)

    @staticmethod
    def _is_proven(user: User, form: dict[str, str]) -> bool:
        now = time.time()
        codes = {totp_code(user.totp_secret, now - late_s) for late_s in (0, 30)}  # typing takes its time
        return hmac.compare_digest(form.get("password", ""), user.password) and form.get("code", "").strip() in codes

    async def _token(self, request: Request) -> Response:
        form = await _form(request)
        if not self._is_client(request, form):
            return JSONResponse({"error": "invalid_client"}, 401)
        if form.get("grant_type") == "refresh_token":
            # RFC 9700 4.14.2: each refresh token is good once.
            user = self._refresh.pop(form.get("refresh_token", ""), None)
            return _refused("invalid_grant") if user is None else JSONResponse(self._grant(user))
        if form.get("grant_type") != "authorization_code":
            return _refused("unsupported_grant_type")
        asked = self._asked.pop(form.get("code", ""), None)
        if asked is None or not asked.user or not _is_answered(asked, form):
            return _refused("invalid_grant")
        return JSONResponse({**self._grant(asked.user), "id_token": self._id_token(asked)})

    def _is_client(self, request: Request, form: dict[str, str]) -> bool:
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        said = (form.get("client_id", ""), form.get("client_secret", ""))
        if scheme.lower() == "basic":
            name, _, password = base64.b64decode(value).decode().partition(":")
            said = name, password
        return said[0] == self.client_id and hmac.compare_digest(said[1], self.client_secret)

    def _grant(self, user: str) -> dict[str, object]:
        return {
            "access_token": self.access_token(user),
            "refresh_token": self.refresh_token(user),
            "token_type": "Bearer",
            "expires_in": TTL_S,
            "scope": self.scope,
        }

    def _id_token(self, asked: Asked) -> str:
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": asked.user,
            "aud": self.client_id,
            "iat": now,
            "exp": now + TTL_S,
            "auth_time": int(asked.signed_in_at),
            "nonce": asked.query.get("nonce", ""),
            "amr": list(MFA),
            "email": asked.user,
            "email_verified": True,
        }
        return jwt.encode({"alg": "ES256", "kid": "practice"}, claims, self._key, algorithms=["ES256"])


def _is_answered(asked: Asked, form: dict[str, str]) -> bool:
    """The verifier of RFC 7636, the address of the request (RFC 6749 4.1.3), and in time."""
    challenge = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
    return (
        challenge.rstrip(b"=").decode() == asked.query.get("code_challenge")
        and form.get("redirect_uri") == asked.query["redirect_uri"]
        and time.time() - asked.signed_in_at < CODE_S
    )


async def _form(request: Request) -> dict[str, str]:
    return dict(parse_qsl((await request.body()).decode()))


def _refused(error: str) -> Response:
    return JSONResponse({"error": error}, 400)
