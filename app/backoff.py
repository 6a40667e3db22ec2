"""How long to wait before trying again. Pure: the jitter's random number is handed in."""

from __future__ import annotations


def exponential(attempt: int, *, first: float, most: float, spread: float, jitter: float = 0.2) -> float:
    """Seconds to wait after failed attempt number `attempt` (from 1): first x 2^(attempt-1), at most `most`, +/- jitter.

    `spread` is a uniform random number in [0, 1) that picks the place within the jitter.
    """
    delay = min(first * 2.0 ** min(max(attempt - 1, 0), 32), most)
    return delay * (1 - jitter + 2 * jitter * spread)
