"""A bucket of requests: a limit per minute that may be used up a little at a time. Pure; whoever keeps it, locks it.

The bucket holds a tenth of a minute's requests and is filled at the rate of the other nine, so that no minute, wherever
it begins, sees more than the limit.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Final

BURST: Final = 0.1
"""The bucket's size, as a share of a minute's requests."""


def refilled(tokens: float | None, at: datetime | None, now: datetime, per_minute: int) -> float:
    """How many requests may be made now, if so many were left at that time. A new bucket is full."""
    burst = _burst(per_minute)
    if tokens is None or at is None:
        return burst
    return min(burst, tokens + max((now - at).total_seconds(), 0) * _per_second(per_minute))


def seconds_to_one(tokens: float, per_minute: int) -> int:
    """After how many whole seconds there is a request, where there is less than one now."""
    return max(math.ceil((1 - tokens) / _per_second(per_minute)), 1)


def _burst(per_minute: int) -> float:
    return max(1.0, per_minute * BURST)


def _per_second(per_minute: int) -> float:
    return (per_minute - _burst(per_minute)) / 60 if per_minute > 1 else 1 / 60
