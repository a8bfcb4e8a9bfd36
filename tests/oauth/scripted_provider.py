"""An OpenID provider on loopback that answers what a test says: discovery, keys, tokens, device codes; signs."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from joserfc import jwt
from joserfc.jwk import ECKey

from proxy.config import OAuth2Config, UpstreamConfig

CLIENT_ID = "our client"
KEY = ECKey.generate_key("P-256", {"kid": "k1", "use": "sig"})
OTHER_KEY = ECKey.generate_key("P-256", {"kid": "k1", "use": "sig"})
GRANT = {"access_token": "access-1", "refresh_token": "refresh-1", "expires_in": 3600, "token_type": "Bearer"}


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    form: Mapping[str, str]
    headers: Mapping[str, str]


@dataclass
class ScriptedProvider:
    """`script` holds, by path, the next answers: (status, JSON); None closes the connection, a float waits so long."""

    url: str = ""
    script: dict[str, deque[Any]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    @property
    def document(self) -> dict[str, Any]:
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "device_authorization_endpoint": f"{self.url}/device",
            "jwks_uri": f"{self.url}/keys",
            "scopes_supported": ["openid", "email", "offline_access"],
        }

    def upstream(self, **changes: Any) -> UpstreamConfig:
        values = {"client_id": CLIENT_ID, "token_url": "", "issuer": self.url, "scopes": ("mail", "offline_access")}
        return UpstreamConfig("mail", oauth2=OAuth2Config(**{**values, **changes}))

    def say(self, path: str, *answers: Any) -> None:
        """Queue answers: a status with JSON, or JSON alone for 200."""
        queue = self.script.setdefault(path, deque())
        queue.extend((200, one) if isinstance(one, dict) else one for one in answers)

    def id_token(self, *, key: Any = KEY, alg: str = "ES256", without: str = "", **changes: Any) -> str:
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": CLIENT_ID,
            "sub": "1",
            "iat": now,
            "exp": now + 600,
            "email": "ann@x.test",
            **changes,
        }
        claims.pop(without, None)
        return jwt.encode({"alg": alg, "kid": "k1"}, claims, key, algorithms=[alg])

    def asked(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path == path]

    def _answer(self, path: str) -> Any:
        if self.script.get(path):
            return self.script[path].popleft()
        match path:
            case "/.well-known/openid-configuration":
                return 200, self.document
            case "/keys":
                return 200, {"keys": [KEY.as_dict(private=False)]}
            case "/token":
                return 200, GRANT
        return 404, {"error": "not_found"}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = head.split("\r\n")
        method, target, _ = lines[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        body = (await reader.readexactly(int(headers.get("content-length", "0")))).decode()
        self.requests.append(Request(method, target, dict(parse_qsl(body, keep_blank_values=True)), headers))
        answer = self._answer(target)
        if isinstance(answer, float):
            await asyncio.sleep(answer)
        if not isinstance(answer, tuple):
            return
        status, value = answer
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(data)}\r\nconnection: close\r\n\r\n".encode() + data)
        await writer.drain()


@asynccontextmanager
async def provider_listening() -> AsyncIterator[ScriptedProvider]:
    provider = ScriptedProvider()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await provider.serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    provider.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield provider
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(list(tasks))
        await server.wait_closed()
