"""The arithmetic of a run: percentiles, spreads, and ratios to what was measured just before and just after."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several figures, the least and the greatest of them."""

    median: float
    least: float
    greatest: float

    def as_json(self) -> dict[str, Any]:
        """For the document."""
        return {name: rounded(value) for name, value in asdict(self).items()}


def spread(figures: Iterable[float]) -> Spread:
    """The spread of figures, of which there must be one."""
    found = list(figures)
    return Spread(statistics.median(found), min(found), max(found))


def percentile(rising: Sequence[float], share: float) -> float:
    """The figure that this share of all is not above (nearest rank); NaN where there is none."""
    if not rising:
        return math.nan
    return rising[max(0, math.ceil(share * len(rising)) - 1)]


def ratio(figure: float, neighbours: Sequence[float]) -> float:
    """A figure in terms of the mean of its neighbours: the machine's speed drifts, and they were measured beside it."""
    return figure / statistics.mean(neighbours)


def rounded(value: float) -> float | None:
    """With four significant digits, which is more than a run can tell; None where there is no figure."""
    if math.isnan(value) or math.isinf(value):
        return None
    return float(f"{value:.4g}")


def milliseconds(seconds: float) -> float | None:
    """Seconds as milliseconds, rounded."""
    return rounded(seconds * 1000)
