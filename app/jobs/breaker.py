"""The circuit breaker of an upstream key: after failures in a row it is held, then one job goes first. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from app.backoff import exponential
from app.db import AnyRow

FAILURES_TO_OPEN: Final = 5
"""Failures in a row, as one process sees them."""

FIRST_HOLD_SECONDS: Final = 1.0
LONGEST_HOLD_SECONDS: Final = 30.0
REFUSED_HOLD_SECONDS: Final = 60.0
"""How long a key that the upstream refuses is held."""

CAP_LOWERED_SECONDS: Final = 60.0
"""How long a 429 lowers the cap to what was running when it came."""


def hold_for(failures: int, spread: float, *, asked_seconds: float | None = None) -> timedelta:
    """How long to hold a key that was opened and failed so many probes less one; never less than the upstream asked."""
    delay = exponential(failures, first=FIRST_HOLD_SECONDS, most=LONGEST_HOLD_SECONDS, spread=spread)
    return timedelta(seconds=max(delay, asked_seconds or 0))


def is_held(key: AnyRow | None, now: datetime) -> bool:
    """Whether nothing may be sent under a key now."""
    return key is not None and key.held_until is not None and key.held_until > now


def sendable(troubled: Mapping[str, AnyRow], keys: Mapping[str, str], now: datetime) -> list[str]:
    """The fingerprints of those keys that are not held."""
    return [fingerprint for fingerprint in keys if not is_held(troubled.get(fingerprint), now)]
