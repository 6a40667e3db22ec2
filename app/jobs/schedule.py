"""When to send again and when to ask. Pure."""

from __future__ import annotations

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

_FIRST_POLL_SECONDS: Final = {"webhooks": 60.0, "poll-only": 5.0}
_LONGEST_POLL_SECONDS: Final = {"webhooks": 300.0, "poll-only": 30.0}
_POLL_GROWTH: Final = 1.5


def retry_seconds(attempt: int, spread: float, *, asked_seconds: float | None = None) -> float:
    """How long to wait after a submission that came to nothing; never less than the upstream asked for."""
    delay = exponential(attempt, first=FIRST_RETRY_SECONDS, most=LONGEST_RETRY_SECONDS, spread=spread)
    return max(delay, asked_seconds or 0)


def poll_seconds(settings: Settings, polls: int) -> float:
    """How long to wait before asking after a job that was asked after so many times."""
    mode = "poll-only" if settings.poll_only else "webhooks"
    first = settings.reconcile_after_seconds or _FIRST_POLL_SECONDS[mode]
    return float(min(first * _POLL_GROWTH ** min(polls, 20), max(first, _LONGEST_POLL_SECONDS[mode])))
