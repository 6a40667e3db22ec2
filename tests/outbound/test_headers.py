"""Headers that others wrote: which are sent, and how those of answers are read."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.outbound.headers import (
    FORBIDDEN_HEADERS,
    accepts_ranges,
    content_range,
    header_fault,
    media_type,
    retry_after_seconds,
)


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


@pytest.mark.parametrize(
    ("value", "media"),
    [
        (None, None),
        ("", None),
        ("image/png", "image/png"),
        ("Image/SVG+XML; charset=utf-8", "image/svg+xml"),
        ("video/mp4;codecs=a/b", "video/mp4"),
        ("png", None),
        ("image/", None),
        ("image/png, text/html", None),
        ("image/p\u00e4ng", None),
        ("image/png\n", None),
    ],
)
def test_a_type_is_told_without_its_parameters(value: str | None, media: str | None) -> None:
    assert media_type(value) == media


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, None),
        ("bytes 0-99/1000", (0, 99, 1000)),
        ("Bytes 500-999/1000", (500, 999, 1000)),
        ("bytes 7-7/*", (7, 7, None)),
        ("bytes */1000", None),
        ("bytes 5-4/10", None),
        ("bytes 0-10/10", None),
        ("bytes 0-0/0", None),
        ("bytes 0-1", None),
        ("lines 0-1/2", None),
        ("bytes 0-" + "9" * 5000 + "/*", None),
    ],
)
def test_a_range_that_contradicts_itself_is_none(value: str | None, found: tuple[int, int, int | None] | None) -> None:
    assert content_range(value) == found


@pytest.mark.parametrize(
    ("value", "accepts"), [(None, False), ("none", False), ("bytes", True), ("x, Bytes", True), ("kilobytes", False)]
)
def test_ranges_are_accepted_when_bytes_are(value: str | None, accepts: bool) -> None:
    assert accepts_ranges(value) is accepts
