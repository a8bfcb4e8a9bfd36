"""nginx's mail proxy asks an HTTP server whom to let in and where to: this one lets all in. `python nginx_auth.py`

Arguments: its port, and the upstream's ports for IMAP and SMTP. It checks nothing, as it is not what is measured.
"""

from __future__ import annotations

import asyncio
import sys


async def serve(port: int, ports: dict[bytes, bytes]) -> None:
    """Answer until killed."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            protocol = b"smtp" if b"Auth-Protocol: smtp" in head else b"imap"
            writer.write(
                b"HTTP/1.0 200 OK\r\nAuth-Status: OK\r\nAuth-Server: 127.0.0.1\r\nAuth-Port: %b\r\n\r\n"
                % ports[protocol]
            )
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), {b"imap": sys.argv[2].encode(), b"smtp": sys.argv[3].encode()}))
