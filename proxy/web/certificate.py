"""The page's certificate, picked up when its files change: new connections are shown the new one."""

from __future__ import annotations

import asyncio
import logging
import ssl

from proxy.config import ListenConfig, Tls, TlsConfig, WebConfig
from proxy.edge.certificates import Certificates
from proxy.errors import ConfigError
from proxy.logs import Line

logger = logging.getLogger("gatepost.web")

FILES_S = 5.0  # between two looks; a change counts when the next look finds it again


class LiveCertificate:
    """One per page that speaks TLS. `context` is what its server is given, for good."""

    def __init__(self, web: WebConfig, tls: TlsConfig) -> None:
        """Read the files; `tls` is the listeners'. Raises ConfigError."""
        self._listener = ListenConfig("imap", web.host, web.port, Tls.IMPLICIT, ())  # of TLS, as mail's are
        self._certificates = Certificates(TlsConfig(web.certificate, web.key, tls.minimum), [self._listener])
        self.context = self._newest()
        # Called for every handshake, also of a client that names no server.
        self.context.sni_callback = self._show

    async def watch(self) -> None:
        """Look again and again. A pair that does not fit, or has expired, is refused with one line."""
        while True:
            await asyncio.sleep(FILES_S)
            if not self._certificates.have_changed():
                continue
            try:
                if self._certificates.renew():
                    logger.info("%s", Line("certificate_changed"))
            except ConfigError as error:
                logger.error("%s", Line("certificate_refused", error=error.problem, remedy=error.remedy))  # noqa: TRY400

    def _newest(self) -> ssl.SSLContext:
        context = self._certificates.of(self._listener)
        assert context is not None, "a listener with TLS"
        return context

    def _show(self, connection: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        connection.context = self._newest()
