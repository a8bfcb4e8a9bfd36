"""Set-ups for tests over a real `gatepost serve` process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edge.scripted import Certificates, make_certificates
from tests.whole.kit import House, make_house, make_template


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Path:
    return make_template(tmp_path_factory.mktemp("whole") / "gate", certificates)


@pytest.fixture
def house(template: Path, tmp_path: Path) -> Iterator[House]:
    house = make_house(template, tmp_path / "gate")
    yield house
    house.kill()
