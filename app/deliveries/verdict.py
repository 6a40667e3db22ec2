"""What an attempt means for its delivery. Pure: the jitter's random number is handed in."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

RETRY_SECONDS: Final = (5, 60, 300, 1800, 7200, 18_000, 36_000, *[43_200] * 7)
"""How long to wait after each failed attempt: more than three days in all, though every wait were the shortest."""

JITTER: Final = 0.2
LONGEST_RETRY_AFTER_SECONDS: Final = 3600.0

GONE: Final = 410

End = Literal["delivered", "undelivered", "dropped"]


class Verdict(msgspec.Struct, frozen=True):
    """`ended` with its reason, or None and when to try again, in seconds. `disables`: nothing more is to be sent there.

    `unmade`: it is no verdict on an attempt, since none was made.
    """

    ended: End | None
    reason: str | None = None
    again_seconds: float | None = None
    disables: bool = False
    unmade: bool = False


DELIVERED: Final = Verdict("delivered")


def judge(
    status: int | None, attempt: int, spread: float, *, retry_after: float | None = None, once: bool = False
) -> Verdict:
    """Judge attempt number `attempt` (from 1) by its HTTP status, None where there was no answer.

    A 2xx is a success and everything else is not, redirects among it. `Retry-After` is heeded up to an hour. `once`: it is
    not made again, because the next one of its kind says more, or because somebody only wanted to see.
    """
    if status is not None and 200 <= status < 300:
        return DELIVERED
    if once:
        return Verdict("dropped", "not tried again")
    if status == GONE:
        return Verdict("undelivered", "the receiver answered 410 Gone", disables=True)
    if attempt > len(RETRY_SECONDS):
        return Verdict("undelivered", f"{attempt} attempts failed")
    wait = RETRY_SECONDS[attempt - 1] * (1 - JITTER + 2 * JITTER * spread)
    return Verdict(None, again_seconds=max(wait, min(retry_after or 0, LONGEST_RETRY_AFTER_SECONDS)))
