"""How durations are kept as a histogram, and percentiles read from it. Pure.

A bucket's middle is nowhere further from what is in it than `ERROR`, whatever that is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

SHORTEST_SECONDS: Final = 0.1
RATIO: Final = 1.25
ERROR: Final = math.sqrt(RATIO) - 1
"""By how much a percentile may be off, as a share of it, between the first bound and the last: less than 12 %."""

BOUNDS: Final = tuple(round(SHORTEST_SECONDS * RATIO**step, 6) for step in range(63))
"""Where buckets begin, in seconds, up to more than a day. Bucket 0 is what is below the first, as `width_bucket` has it.

What is kept is numbered by them: other bounds need the table of timings to be made anew.
"""


def bucket_of(seconds: float) -> int:
    """The bucket that a duration is in."""
    return sum(1 for bound in BOUNDS if seconds >= bound)


def middle_of(bucket: int) -> float:
    """The geometric middle of a bucket, in seconds; of the last one, which has no end, its beginning."""
    if bucket == 0:
        return BOUNDS[0] / 2
    return BOUNDS[-1] if bucket == len(BOUNDS) else math.sqrt(BOUNDS[bucket - 1] * BOUNDS[bucket])


def percentile(counts: Mapping[int, int], share: float) -> float | None:
    """How long this share of all took at most (nearest rank), by how many are in each bucket; None of none."""
    rank = math.ceil(sum(counts.values()) * share)
    for bucket in sorted(counts):
        rank -= counts[bucket]
        if rank <= 0 and counts[bucket] > 0:
            return middle_of(bucket)
    return None
