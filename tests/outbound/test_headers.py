"""Headers that others wrote: which are sent, and how those of answers are read."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.outbound.headers import FORBIDDEN_HEADERS, header_fault, retry_after_seconds


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0),
        ("120", 120),
        ("120.5", None),
        ("-1", None),
        ("1" * 20, None),
        ("soon", None),
        ("", None),
        ("Wed, 25 Nov 2026 12:02:00 GMT", 120),
        ("Wed, 25 Nov 2026 12:02:00 +0000", 120),
        ("Wed, 25 Nov 2026 14:02:00 +0200", 120),
        ("Wed, 25 Nov 2026 12:02:00 -0000", 120),
        ("Wednesday, 25-Nov-26 12:02:00 GMT", 120),
        ("Wed Nov 25 12:02:00 2026", 120),
        ("Wed, 25 Nov 2020 12:02:00 GMT", 0),
        ("Wed, 99 Nov 2026 12:02:00 GMT", None),
        ("Wed, 25 Nov 99999999999999999999 12:02:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(value, datetime(2026, 11, 25, 12, 0, tzinfo=UTC)) == seconds


@given(st.text() | st.text("0123456789:, +-GMTNovWed", max_size=40))
def test_no_retry_after_is_too_odd_to_be_read(value: str) -> None:
    seconds = retry_after_seconds(value, datetime(2026, 11, 25, tzinfo=UTC))

    assert seconds is None or seconds >= 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Authorization", "Bearer abc=="),
        ("X-Api-Key", "k"),
        ("x_team", 'a "quoted" value, with; all!'),
        ("Cookie", "a=b"),
        ("User-Agent", "hooks/1"),
        ("X-Webhooks", "1"),
        ("X-Long", "x" * 4096),
    ],
)
def test_a_header_of_others_may_be_sent(name: str, value: str) -> None:
    assert header_fault(name, value) is None


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        *((name, "x", "sets itself") for name in sorted(FORBIDDEN_HEADERS)),
        ("HOST", "hooks.example", "sets itself"),
        ("Transfer-Encoding", "chunked", "sets itself"),
        ("webhook-id", "1", "sets itself"),
        ("Webhook-Signature", "v1,x", "sets itself"),
        ("X-Webhook-Timestamp", "1", "sets itself"),
        ("", "x", "have a name"),
        ("X Key", "x", "have a name"),
        ("X-Key:", "x", "have a name"),
        ("X-Key\r\nHost", "x", "have a name"),
        ("X-Kéy", "x", "have a name"),
        ("X-Key\n", "x", "have a name"),
        ("X-Key", "", "have a value"),
        ("X-Key", " x", "have a value"),
        ("X-Key", "x ", "have a value"),
        ("X-Key", "x\n", "have a value"),
        ("X-Key", "x\r\nHost: y", "have a value"),
        ("X-Key", "x\x00", "have a value"),
        ("X-Key", "x\ty", "have a value"),
        ("X-Key", "é", "have a value"),
        ("X-Key", "x" * 4097, "4,096"),
        ("X" * 4097, "x", "4,096"),
    ],
)
def test_a_header_of_others_that_must_not_be_sent_is_told_why(name: str, value: str, fault: str) -> None:
    assert fault in (header_fault(name, value) or "")


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_header_that_passes_stays_on_its_line(name: str, value: str) -> None:
    if header_fault(name, value) is None:
        line = f"{name}: {value}"
        assert line.isascii()
        assert line.isprintable()
        assert ":" not in name
