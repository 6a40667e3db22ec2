"""The bucket of requests: no minute, wherever it begins, sees more than the limit, and who waits as told is let in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from app.bucket import refilled, seconds_to_one

START = datetime(2026, 3, 4, tzinfo=UTC)


@given(st.integers(1, 300), st.lists(st.floats(0, 5), min_size=1, max_size=400))
def test_no_minute_sees_more_than_the_limit(per_minute: int, gaps: list[float]) -> None:
    tokens: float | None = None
    at, now, taken = START, START, list[datetime]()
    for gap in gaps:
        now += timedelta(seconds=gap)
        allowed = refilled(tokens, at, now, per_minute)
        if allowed >= 1:
            allowed -= 1
            taken.append(now)
        tokens, at = allowed, now

    for first in taken:
        assert sum(first <= time < first + timedelta(minutes=1) for time in taken) <= per_minute + 1e-6


@given(st.integers(1, 100_000), st.floats(0, 0.999))
def test_who_waits_as_long_as_it_is_told_is_let_in(per_minute: int, tokens: float) -> None:
    seconds = seconds_to_one(tokens, per_minute)

    assert seconds >= 1
    later = START + timedelta(seconds=seconds, microseconds=1)
    assert refilled(tokens, START, later, per_minute) >= 1


def test_a_new_bucket_is_full_and_never_fuller() -> None:
    assert refilled(None, None, START, 600) == 60
    assert refilled(59, START, START + timedelta(days=1), 600) == 60
    assert refilled(3, START, START - timedelta(days=1), 600) == 3
    assert refilled(None, None, START, 1) == 1
