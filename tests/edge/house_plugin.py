"""The set-up of a whole Gatepost, for tests that open it by house_kit: made once for a module, copied for each test."""

from __future__ import annotations

import pytest

from tests.edge.house_kit import Set_up, make_template, set_up
from tests.edge.scripted import make_certificates


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    directory = tmp_path_factory.mktemp("once")
    return make_template(directory / "gate"), make_certificates(directory)


@pytest.fixture
def made(made_once, tmp_path) -> Set_up:
    return set_up(made_once[0], tmp_path / "gate", made_once[1])
