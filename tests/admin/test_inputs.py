"""proxy/admin/inputs.py: what people type becomes exact, or is refused with a remedy."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, strategies as st

from proxy.admin import inputs
from proxy.config import Endpoint, Tls, UpstreamConfig
from proxy.errors import OperatorError

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
IMAP = Endpoint("imap.example.com", 993, Tls.IMPLICIT)
SMTP = Endpoint("smtp.example.com", 587, Tls.STARTTLS)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("12h", datetime(2026, 11, 24, 0, 0, tzinfo=UTC)),
        ("1d", datetime(2026, 11, 24, 12, 0, tzinfo=UTC)),
        ("8w", datetime(2027, 1, 18, 12, 0, tzinfo=UTC)),
        (" 090d ", datetime(2027, 2, 21, 12, 0, tzinfo=UTC)),
        ("2026-11-24", datetime(2026, 11, 24, 0, 0, tzinfo=UTC)),
        ("2026-11-23T12:00:01Z", datetime(2026, 11, 23, 12, 0, 1, tzinfo=UTC)),
        ("2026-11-23T12:01", datetime(2026, 11, 23, 12, 1, tzinfo=UTC)),
        ("2026-11-23T14:30:00+02:00", datetime(2026, 11, 23, 12, 30, tzinfo=UTC)),
    ],
)
def test_expiry(text, moment):
    assert inputs.expiry(text, NOW) == moment
    assert inputs.expiry(text, NOW).tzinfo is UTC


@pytest.mark.parametrize(
    "text",
    [
        "",
        "90",
        "d",
        "1.5d",
        "-1d",
        "90D",
        "90 days",
        "\u0669d",
        "0h",
        "1000000d",
        "999999w",
        "2026-11-23",
        "2026-11-23T12:00:00Z",
        "2026-11-23T13:59:00+02:00",
        "2027-02-30",
        "2027-13-01",
        "20270101",
        "2027-W01-1",
        "23.11.2027",
        "2027-01-01 00:00",
        "0000-01-01",
        "9999-12-31T23:59:59-23:59",
    ],
)
def test_expiry_refused(text):
    with pytest.raises(OperatorError) as caught:
        inputs.expiry(text, NOW)
    assert "90d" in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("192.0.2.7", "192.0.2.7/32"),
        ("192.0.2.0/255.255.255.0", "192.0.2.0/24"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        (" 2001:DB8:0::/32 ", "2001:db8::/32"),
        ("::1", "::1/128"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::/0", "::/0"),
    ],
)
def test_network(text, network):
    assert inputs.networks([text]) == (network,)


def test_networks_are_kept_in_order_and_once():
    assert inputs.networks(["::1", "10.0.0.0/8", "::ffff:10.0.0.0/104", "::1/128"]) == ("::1/128", "10.0.0.0/8")
    assert inputs.networks([]) == ()


def test_networks_are_bounded():
    with pytest.raises(OperatorError, match="too many"):
        inputs.networks([f"10.0.0.{number}" for number in range(inputs.MAX_NETWORKS + 1)])


@given(st.ip_addresses(), st.integers(0, 32))
def test_network_of_any_address_holds_it(address, prefix):
    loose = ipaddress.ip_network(f"{address}/{prefix}", strict=False)
    (network,) = inputs.networks([str(loose)])
    assert ipaddress.ip_network(network) == loose


def outcome(parse, text: str):
    """What the parser makes of the text, or its refusal as one line."""
    try:
        return parse(text), None
    except OperatorError as error:
        return None, str(error)


@given(st.text(max_size=30))
def test_any_text_is_a_network_or_refused(text):
    found, line = outcome(lambda one: inputs.networks([one]), text)
    assert line.isprintable() if found is None else str(ipaddress.ip_network(found[0])) == found[0]


@given(st.text(max_size=30))
def test_any_text_is_a_time_to_come_or_refused(text):
    moment, line = outcome(lambda one: inputs.expiry(one, NOW), text)
    assert line.isprintable() if moment is None else moment > NOW


@given(st.text(max_size=30))
def test_any_text_is_a_time_gone_by_or_refused(text):
    moment, line = outcome(lambda one: inputs.since(one, NOW), text)
    assert line.isprintable() if moment is None else moment <= NOW


@given(st.text(max_size=30))
def test_any_text_is_an_overlap_or_refused(text):
    length, line = outcome(inputs.overlap, text)
    assert line.isprintable() if length is None else timedelta(0) <= length <= inputs.MAX_OVERLAP


def test_overlap_is_a_period_of_90_days_at_most():
    assert inputs.overlap(" 24h ") == timedelta(days=1)
    assert inputs.overlap("0h") == timedelta(0)
    assert inputs.overlap("90d") == inputs.MAX_OVERLAP
    for text in ("91d", "13w", "2161h"):
        with pytest.raises(OperatorError, match="longer than 90 days"):
            inputs.overlap(text)


@given(st.text(max_size=300))
def test_any_text_is_a_printable_name_or_refused(text):
    name, line = outcome(inputs.name, text)
    if name is None:
        assert line.isprintable()
        return
    assert name.isprintable()
    assert name == inputs.name(name)
    assert 1 <= len(name) <= inputs.MAX_NAME


@given(st.text(max_size=300))
def test_any_text_is_an_e_mail_or_refused(text):
    email, line = outcome(inputs.email, text)
    if email is None:
        assert line.isprintable()
        return
    assert email.isprintable()
    assert email.count("@") == 1
    assert email == inputs.email(email)


def test_email_is_canonical():
    assert inputs.email(" Ann@EXAMPLE.com ") == "ann@example.com"


def test_aliases_are_canonical_once_and_without_the_email():
    names = ["ANN", "ann", r"CORP\ann", "Ann@example.com", "a.nn@example.com"]
    assert inputs.aliases(names, "ann@example.com") == ("ann", "a.nn@example.com")


def test_aliases_are_bounded():
    with pytest.raises(OperatorError, match="too many"):
        inputs.aliases([f"ann{number}" for number in range(inputs.MAX_ALIASES + 1)], "ann@example.com")


def test_upstream_user_keeps_its_case():
    assert inputs.upstream_user(" Shared@Example.com ") == "Shared@Example.com"


def test_protocols_come_in_one_order_and_once():
    upstream = UpstreamConfig("one", IMAP, SMTP)
    assert inputs.protocols(["smtp", "imap", "smtp"], upstream) == ("imap", "smtp")
    assert inputs.protocols([], upstream) == ("imap", "smtp")
    assert inputs.protocols([], UpstreamConfig("one", smtp=SMTP)) == ("smtp",)


@given(st.text())
def test_wrong_input_is_repeated_on_one_short_line(text):
    assert inputs.repeated(text).isprintable()
    assert len(inputs.repeated(text)) < 70


def test_app_password_that_is_typed_where_something_else_belongs_is_neither_stored_nor_repeated():
    from proxy.vault.apppassword import generate  # noqa: PLC0415 - this test alone

    shown = generate().shown()
    for text in (shown, shown.replace("-", ""), shown.upper()):
        assert inputs.repeated(text) == "(an app password)"
        with pytest.raises(OperatorError, match="that is an app password and no name") as caught:
            inputs.name(text)
        assert text not in str(caught.value)
        with pytest.raises(OperatorError) as caught:
            inputs.email(text)
        assert text not in str(caught.value)
    assert inputs.name("Scanner, 2nd floor") == "Scanner, 2nd floor"
