"""When to send again and when to ask: bounds that hold for every attempt, and the settings' promises."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.config import Settings, load_settings
from app.jobs.schedule import AMBIGUOUS_WINDOW, poll_seconds, retry_seconds

unhurried = settings(deadline=None)  # a busy machine is not a failure

UPSTREAM_WINDOW = timedelta(hours=24)  # APIFRAME.md: how long an Idempotency-Key stands for its job

spreads = st.floats(0, 1, exclude_max=True)


def service_settings(**values: Any) -> Settings:
    usual = {"apiframe_base_url": "http://127.0.0.1:9", "public_base_url": "http://127.0.0.1:8"}
    return load_settings(_env_file=None, **usual | values)


def test_a_submission_of_unknown_fate_is_given_up_well_inside_the_upstreams_window() -> None:
    longest_call = timedelta(seconds=service_settings(upstream_timeout_seconds=300).lease_seconds)

    assert longest_call < UPSTREAM_WINDOW - AMBIGUOUS_WINDOW


@unhurried
@given(st.integers(1, 10_000), spreads)
def test_a_retry_waits_longer_each_time_up_to_a_minute_and_a_fifth(attempt: int, spread: float) -> None:
    middle = min(2.0 ** (attempt - 1), 60) if attempt < 10 else 60

    assert 0.8 * middle <= retry_seconds(attempt, spread) <= 1.2 * middle


@unhurried
@given(st.integers(1, 50), spreads, st.floats(0, 3600))
def test_a_retry_never_comes_before_the_upstream_asked(attempt: int, spread: float, asked: float) -> None:
    assert retry_seconds(attempt, spread, asked_seconds=asked) >= asked


def test_callers_that_failed_together_do_not_all_come_back_together() -> None:
    assert retry_seconds(3, 0.0) < retry_seconds(3, 0.5) < retry_seconds(3, 0.99)


@pytest.mark.parametrize(
    ("values", "first", "longest"),
    [
        ({}, 60, 300),
        ({"public_base_url": None}, 5, 30),
        ({"apiframe_base_url": "https://api.apiframe.ai"}, 5, 30),  # a remote upstream cannot reach our loopback
        ({"reconcile_after_seconds": 2}, 2, 300),
        ({"reconcile_after_seconds": 900}, 900, 900),
    ],
    ids=["webhooks", "no address", "loopback address", "set", "set beyond the longest"],
)
def test_polls_grow_rarer_from_the_first_wait_to_the_longest(
    values: dict[str, Any], first: float, longest: float
) -> None:
    waits = [poll_seconds(service_settings(**values), polls) for polls in range(60)]

    assert waits[0] == first
    assert waits[-1] == longest
    assert all(before <= after <= longest for before, after in pairwise(waits))
