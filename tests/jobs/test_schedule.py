"""When to send again and when to ask: bounds that hold for every attempt, and the settings' promises."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.config import Settings, load_settings
from app.jobs.schedule import AMBIGUOUS_WINDOW, Expected, expected_of, poll_seconds, retry_seconds

UPSTREAM_WINDOW = timedelta(hours=24)  # APIFRAME.md: how long an Idempotency-Key stands for its job

spreads = st.floats(0, 1, exclude_max=True)


def service_settings(**values: Any) -> Settings:
    usual = {"apiframe_base_url": "http://127.0.0.1:9", "public_base_url": "http://127.0.0.1:8"}
    return load_settings(_env_file=None, **usual | values)


def test_a_submission_of_unknown_fate_is_given_up_well_inside_the_upstreams_window() -> None:
    longest_call = timedelta(seconds=service_settings(upstream_timeout_seconds=300).lease_seconds)

    assert longest_call < UPSTREAM_WINDOW - AMBIGUOUS_WINDOW


@given(st.integers(1, 10_000), spreads)
def test_a_retry_waits_longer_each_time_up_to_a_minute_and_a_fifth(attempt: int, spread: float) -> None:
    middle = min(2.0 ** (attempt - 1), 60) if attempt < 10 else 60

    assert 0.8 * middle <= retry_seconds(attempt, spread) <= 1.2 * middle


@given(st.integers(1, 50), spreads, st.floats(0, 3600))
def test_a_retry_never_comes_before_the_upstream_asked(attempt: int, spread: float, asked: float) -> None:
    assert retry_seconds(attempt, spread, asked_seconds=asked) >= asked


def test_callers_that_failed_together_do_not_all_come_back_together() -> None:
    assert retry_seconds(3, 0.0) < retry_seconds(3, 0.5) < retry_seconds(3, 0.99)


@pytest.mark.parametrize(
    ("values", "first", "second", "longest"),
    [
        ({}, 95, 10, 300),
        ({"public_base_url": None}, 50, 3, 30),
        ({"apiframe_base_url": "https://api.apiframe.ai"}, 50, 3, 30),  # a remote upstream cannot reach our loopback
        ({"reconcile_after_seconds": 2}, 2, 2, 300),
        ({"reconcile_after_seconds": 900}, 900, 10, 300),
    ],
    ids=["webhooks", "no address", "loopback address", "set", "set beyond the longest"],
)
def test_the_first_poll_comes_when_the_job_should_be_over_and_the_later_ones_grow_rarer(
    values: dict[str, Any], first: float, second: float, longest: float
) -> None:
    expected = Expected(p50=50, p95=95, p99=99)

    waits = [poll_seconds(service_settings(**values), expected, polls) for polls in range(60)]

    assert waits[:2] == [first, second]
    assert waits[-1] == longest
    assert all(before <= after <= longest for before, after in pairwise(waits[1:]))


def test_a_model_that_is_over_at_once_is_not_asked_after_at_once() -> None:
    assert poll_seconds(service_settings(), Expected(p50=0, p95=0, p99=0), 0) == 2


def test_an_operation_without_history_is_expected_to_take_as_long_as_its_kind() -> None:
    assert expected_of("images/upscale").p95 < expected_of("music/generate").p95 < expected_of("videos/edit").p95
    assert expected_of("holograms/generate") == expected_of("videos/generate")
