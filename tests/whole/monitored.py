"""What a monitoring system sees of a running Gatepost."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

from tests.whole.kit import House

METRICS = '[metrics]\naddress = "127.0.0.1:0"\n'
PATIENCE_S = 20.0


@dataclass(frozen=True)
class Said:
    status: int
    content_type: str
    body: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def number(self, name: str, **labels: str) -> float:
        """The sum of all samples of this name that have these labels; 0.0 without any."""
        return sum(value for found, value in self.samples(name) if labels.items() <= found.items())

    def samples(self, name: str) -> list[tuple[dict[str, str], float]]:
        found = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", self.body, re.MULTILINE)
        return [(dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)) for labels, value in found]


def port_of(house: House) -> int:
    line = house.await_log("event=monitoring")
    return int(line.rpartition(":")[2])


def ask(house: House, path: str, port: int | None = None) -> Said:
    connection = HTTPConnection("127.0.0.1", port or port_of(house), timeout=PATIENCE_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return Said(response.status, response.getheader("Content-Type", ""), response.read().decode())
    finally:
        connection.close()
