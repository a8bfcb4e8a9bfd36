"""Upstreams whose provider rejects our client id or secret: one alarm each, and a while of being left alone."""

from __future__ import annotations

import logging
from collections.abc import Callable

from proxy.errors import Refusal, Refused
from proxy.logs import Line
from proxy.record.alerts import Ear

logger = logging.getLogger("gatepost.oauth")


class Rejections:
    """Upstreams, by name, whose last answer was a rejection. Times are of the clock given to it."""

    def __init__(self, clock: Callable[[], float], ear: Ear) -> None:
        self._clock = clock
        self._ear = ear
        self._until: dict[str, float] = {}

    def refuse_if_left_alone(self, upstream: str) -> None:
        """Raises Refused(CLIENT_REJECTED) while nobody should ask again."""
        if self._clock() < self._until.get(upstream, 0.0):
            raise Refused(Refusal.CLIENT_REJECTED, "left alone after a rejected client")

    def begin(self, upstream: str, code: str, pause_s: float) -> None:
        """It happened, for the first time or again."""
        if upstream not in self._until:
            logger.warning("%s", Line("provider_rejects_client", upstream=upstream, code=code))
        self._until[upstream] = self._clock() + pause_s
        self._ear.client_rejected(upstream, code)

    def end(self, upstream: str) -> None:
        """The provider gave a token."""
        if self._until.pop(upstream, None) is not None:
            logger.warning("%s", Line("provider_accepts_client_again", upstream=upstream))
        self._ear.client_accepted(upstream)
