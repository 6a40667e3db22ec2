"""When to send again and when to ask. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from app.backoff import exponential
from app.config import Settings

AMBIGUOUS_WINDOW: Final = timedelta(hours=23)
"""How long a submission of unknown fate may be repeated: an hour inside the upstream's 24 h of idempotency."""

OUT_OF_CREDITS_SECONDS: Final = 600.0
PAUSE_SECONDS: Final = 60.0
FIRST_RETRY_SECONDS: Final = 1.0
LONGEST_RETRY_SECONDS: Final = 60.0

MISSING_POLL_SECONDS: Final = 300.0
"""When to ask again after the upstream said that it has no such job."""

MISSING_TIMES: Final = 3
MISSING_FOR: Final = timedelta(minutes=10)
"""A job is lost once the key that sent it was told 404 so many times in a row over at least so long."""

_NEXT_POLL_SECONDS: Final = {"webhooks": 10.0, "poll-only": 3.0}
_LONGEST_POLL_SECONDS: Final = {"webhooks": 300.0, "poll-only": 30.0}
_POLL_GROWTH: Final = 1.5
_LEAST_FIRST_POLL_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Expected:
    """How long a model's generations take upstream, in seconds: half, 95 and 99 in 100 are over by then."""

    p50: float
    p95: float
    p99: float


_BY_MODALITY: Final = {
    "images": Expected(15, 60, 300),
    "videos": Expected(120, 600, 1800),
    "music": Expected(60, 300, 900),
}
"""While a model has no history. About 15 s for Flux 1.1 Pro Ultra is the product page's word; the others are guesses."""


def expected_of(operation: str) -> Expected:
    """What to expect of an operation's models while nothing is known of them."""
    return _BY_MODALITY.get(operation.partition("/")[0], _BY_MODALITY["videos"])


def retry_seconds(attempt: int, spread: float, *, asked_seconds: float | None = None) -> float:
    """How long to wait after a submission that came to nothing; never less than the upstream asked for."""
    delay = exponential(attempt, first=FIRST_RETRY_SECONDS, most=LONGEST_RETRY_SECONDS, spread=spread)
    return max(delay, asked_seconds or 0)


def poll_seconds(settings: Settings, expected: Expected, polls: int) -> float:
    """How long to wait before asking after a job that was asked after so many times.

    First until a webhook would have come in 95 of 100 cases; without webhooks, until half of the jobs are over.
    """
    mode = "poll-only" if settings.poll_only else "webhooks"
    usual = expected.p50 if settings.poll_only else expected.p95
    first = settings.reconcile_after_seconds or max(usual, _LEAST_FIRST_POLL_SECONDS)
    if polls == 0:
        return first
    step = min(_NEXT_POLL_SECONDS[mode], first)
    return float(min(step * _POLL_GROWTH ** min(polls - 1, 20), _LONGEST_POLL_SECONDS[mode]))
