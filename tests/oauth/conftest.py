"""A scripted provider and a client in front of it, for the tests of grants and sign-ins."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator

import pytest

from proxy.oauth import TokenClient
from tests.oauth.scripted_provider import ScriptedProvider, provider_listening


@pytest.fixture
async def provider() -> AsyncIterator[ScriptedProvider]:
    async with provider_listening() as provider:
        yield provider


@pytest.fixture
async def asking() -> AsyncIterator[TokenClient]:
    """A token client with a short deadline."""
    client = TokenClient(lambda _: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), deadline_s=2.0)
    yield client
    await client.close()
