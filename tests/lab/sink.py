"""The rest of the world: an SMTP server that keeps every message as a file, and hands local ones to LMTP if told to.

Run as `python -P sink.py PORT DIRECTORY [LMTP_PORT DOMAIN...]`. Knows nothing of the lab.
"""

import asyncio
import smtplib
import sys
import time
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session

LMTP_TIMEOUT_S = 30


class Keep:
    """aiosmtpd's handler: one file per message, complete when it bears its name."""

    def __init__(self, directory: Path, lmtp_port: int, domains: frozenset[str]) -> None:
        self._directory = directory
        self._lmtp_port = lmtp_port
        self._domains = domains

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Keep the message for outsiders, deliver it for locals."""
        content = envelope.original_content or b""
        recipients = [str(address) for address in envelope.rcpt_tos]
        local = [address for address in recipients if address.rpartition("@")[2].lower() in self._domains]
        if local:
            await asyncio.to_thread(self._deliver, str(envelope.mail_from or ""), local, content)
        if len(local) < len(recipients):
            name = f"{time.time_ns():020d}"
            draft = self._directory / f"{name}.part"
            draft.write_bytes(content)
            draft.rename(self._directory / f"{name}.eml")
        return "250 2.0.0 kept"

    def _deliver(self, sender: str, recipients: list[str], content: bytes) -> None:
        with smtplib.LMTP("127.0.0.1", self._lmtp_port, timeout=LMTP_TIMEOUT_S) as lmtp:
            lmtp.sendmail(sender, recipients, content)


async def serve(port: int, handler: Keep) -> None:
    """Listen on loopback until we are ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(handler, hostname="sink.test", data_size_limit=None, enable_SMTPUTF8=True, loop=loop),
        "127.0.0.1",
        port,
    )
    async with server:
        await server.serve_forever()


def main() -> None:
    """Read the command line and serve."""
    port, directory, *local = sys.argv[1:]
    lmtp_port, domains = (int(local[0]), frozenset(local[1:])) if local else (0, frozenset[str]())
    asyncio.run(serve(int(port), Keep(Path(directory), lmtp_port, domains)))


if __name__ == "__main__":
    main()
