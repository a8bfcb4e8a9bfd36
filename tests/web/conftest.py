"""One page and one server for all tests of the page, with accounts that each file uses as it says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import USERS
from tests.lab import Lab
from tests.web.kit import Visitor, WebGate

ANN, BOB, CY, DEE, EVE = USERS


@pytest.fixture(scope="session")
def web(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebGate]:
    """Accounts: Ann's (not connected), Bob's, Cy's (sealed). Dee and Eve have none."""
    gate = WebGate.made(lab, tmp_path_factory.mktemp("web") / "gate", 'admin_group = "admins"')
    for user in (ANN, BOB):
        gate.add(user)
    gate.add(CY, "--sealed")
    gate.start()
    gate.start_page()
    yield gate
    try:
        assert gate.stop_page() == 0
    finally:
        gate.kill()
    assert gate.leaked() == []


@pytest.fixture
def visitor(web: WebGate) -> Iterator[Visitor]:
    with Visitor(web) as visitor:
        yield visitor
    web.lab.idp.set_amr("pwd", "otp", "mfa")
    for user in USERS:
        web.lab.idp.set_id_claims(user)
    web.lab.idp.set_delegates({})
    web.lab.idp.set_login_age(0)
