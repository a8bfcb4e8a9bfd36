"""The TLS contexts of the listeners, and the files they come from: read anew when those have changed.

New connections get the newest context, those that are there keep theirs. A pair that does not fit, or a certificate
that has expired already, is refused as a whole, and what was read before stays in use.
"""

from __future__ import annotations

import hashlib
import logging
import ssl
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from proxy.config import ListenConfig, Tls, TlsConfig, TlsVersion
from proxy.edge.tls import server_context
from proxy.errors import ConfigError
from proxy.logs import Line
from proxy.secret import MAX_SECRET_FILE_BYTES
from proxy.vault.certificate import inspect

logger = logging.getLogger("gatepost.edge")

SOON = timedelta(days=1)  # what renews has failed for weeks by then

_Stamp = tuple[tuple[int, int, int], ...]


class Certificates:
    """One per configuration. A worker inherits its supervisor's by fork, so it needs no file to start."""

    def __init__(
        self, tls: TlsConfig, listeners: Sequence[ListenConfig], now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """Read the files. Raises ConfigError."""
        self._tls = tls
        self._minima = {listener.minimum_tls for listener in listeners if listener.tls is not Tls.NONE}
        self._now = now
        self._stamp = self._look()
        self._digest = self._content()
        self._contexts = self._read()
        self.ends = self._end()  # when the certificate that is shown ends; None without TLS
        self._changed: _Stamp | None = None

    @property
    def digest(self) -> bytes:
        """Names the files' content; b"" without TLS."""
        return self._digest

    def of(self, listener: ListenConfig) -> ssl.SSLContext | None:
        """The context for a new connection; None without TLS."""
        return None if listener.tls is Tls.NONE else self._contexts[listener.minimum_tls]

    def have_changed(self) -> bool:
        """Whether the files are other ones than at the last look, and stayed so for two looks.

        A certificate and its key are two files: between the two writes they do not fit, and nobody need hear of it.
        """
        stamp = self._look()
        if stamp == self._stamp:
            self._changed = None
            return False
        if stamp != self._changed:
            self._changed = stamp
            return False
        self._stamp, self._changed = stamp, None
        return self._content() != self._digest

    def renew(self) -> bool:
        """Read the files anew; whether there is something new in them. Raises ConfigError, and keeps the old."""
        self._stamp = self._look()
        digest = self._content()
        if digest == self._digest:
            return False
        contexts = self._read()
        self.require_unexpired()
        self._contexts, self._digest, self.ends = contexts, digest, self._end()
        return True

    def require_unexpired(self) -> None:
        """Refuse to put a certificate into use that no client takes any more. Raises ConfigError."""
        ends = self._end()
        if ends is not None and ends <= self._now():
            raise ConfigError(f"{self._tls.certificate} has expired on {ends:%Y-%m-%d}", "renew it")

    def tell_of_end(self) -> None:
        """At the start: one line if the certificate has ended, or will within a day.

        It is served all the same: clients that look refuse it, those that do not would be cut off for nothing.
        """
        ends = self._end()
        if ends is None or ends - self._now() > SOON:
            return
        event = "certificate_ends_soon" if ends > self._now() else "certificate_expired"
        line = Line(event, file=str(self._tls.certificate), ends=f"{ends:%Y-%m-%dT%H:%M:%SZ}", remedy="renew it")
        logger.log(logging.ERROR if event == "certificate_expired" else logging.WARNING, "%s", line)

    def _end(self) -> datetime | None:
        certificate, key = self._tls.certificate, self._tls.key
        if not self._minima or certificate is None or key is None:
            return None
        return inspect(certificate, key).not_after

    def _read(self) -> dict[TlsVersion | None, ssl.SSLContext]:
        return {minimum: server_context(self._tls, minimum) for minimum in self._minima}

    def _look(self) -> _Stamp:
        if not self._minima:
            return ()
        stamps = []
        for path in (self._tls.certificate, self._tls.key):
            try:
                found = path.stat() if path is not None else None
            except OSError:  # gone for a moment, or for good: the next reading says which
                found = None
            stamps.append((found.st_mtime_ns, found.st_size, found.st_ino) if found is not None else (0, 0, 0))
        return tuple(stamps)

    def _content(self) -> bytes:
        if not self._minima:
            return b""
        digest = hashlib.sha256()
        for path in (self._tls.certificate, self._tls.key):
            if path is None:
                continue
            try:
                with path.open("rb") as file:
                    data = file.read(MAX_SECRET_FILE_BYTES + 1)
            except OSError:
                data = b""  # `_read` says what is wrong with it
            digest.update(b"%d:" % len(data) + data)
        return digest.digest()
