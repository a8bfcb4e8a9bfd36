"""What waits for one browser opens for it alone."""

from __future__ import annotations

import pytest

from proxy.secret import Secret
from proxy.vault.parcel import unwrap, wrap_up
from proxy.vault.sealing import SealBroken

BROWSER = Secret("a random text of one browser")


def test_the_browser_gets_back_what_was_wrapped_up():
    parcel = wrap_up(BROWSER, 17, Secret("refresh"))
    assert b"refresh" not in parcel
    assert unwrap(BROWSER, 17, parcel).reveal() == "refresh"
    assert wrap_up(BROWSER, 17, Secret("refresh")) != parcel


def test_nobody_else_does_and_not_for_another_account():
    parcel = wrap_up(BROWSER, 17, Secret("refresh"))
    with pytest.raises(SealBroken):
        unwrap(Secret("another"), 17, parcel)
    with pytest.raises(SealBroken):
        unwrap(BROWSER, 18, parcel)


def test_a_parcel_that_was_touched_stays_closed():
    parcel = wrap_up(BROWSER, 17, Secret("refresh"))
    for wrong in (b"", parcel[:5], parcel[:-1], parcel[:-1] + bytes([parcel[-1] ^ 1]), b"\0" * len(parcel)):
        with pytest.raises(SealBroken):
            unwrap(BROWSER, 17, wrong)
