"""Forms that a browser sent: urlencoded, bounded, each field once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request

from proxy.web.problems import N_, Problem

MAX_BODY = 16_384  # octets; the longest form has a list of networks
MAX_FIELDS = 40
BODY_S = 20.0  # for a form to arrive whole
_URLENCODED = "application/x-www-form-urlencoded"


async def read_form(request: Request) -> Mapping[str, tuple[str, ...]]:
    """The fields of a form, in order. Raises Problem for another type, or one that is too long."""
    # Multipart is for files, and there are none: what need not be parsed can't go wrong.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _URLENCODED:
        raise Problem(415, N_("This page takes plain forms only"), N_("Nothing was changed."))
    body = await read_body(request)
    try:
        pairs = parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
    except ValueError:
        raise Problem(400, N_("That form cannot be read"), N_("Nothing was changed.")) from None
    fields: dict[str, tuple[str, ...]] = {}
    for name, value in pairs:
        fields[name] = (*fields.get(name, ()), value)
    return fields


async def read_body(request: Request) -> bytes:
    """The body, at most MAX_BODY octets of it. Raises Problem for more."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY:
                    raise Problem(413, N_("That form is too long"), N_("Nothing was changed."))
    except (ClientDisconnect, TimeoutError):
        raise Problem(400, N_("That form cannot be read"), N_("Nothing was changed.")) from None
    return bytes(body)


def field(form: Mapping[str, tuple[str, ...]], name: str) -> str:
    """A field that comes once; "" if it is missing or comes again."""
    values = form.get(name, ())
    return values[0] if len(values) == 1 else ""
