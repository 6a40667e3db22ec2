"""The first page: how things stand, and how they went lately."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from markupsafe import Markup
from starlette.responses import Response

from app.dashboard.charts import Bar, Series, meter, stacked_bars
from app.dashboard.troubles import list_troubles
from app.dashboard.visits import Visit
from app.dashboard.words import NONE, duration, number
from app.db import AnyRow
from app.ops import statistics_queries
from app.ops.standing import Standing, read_standing
from app.ops.statistics import DEFAULT_WINDOW, WINDOWS, Counts, Group, Percentiles, Statistics, Window, read_statistics

SHOWN_GROUPS: Final = 10
SHOWN_FAILURES: Final = 8
LOOKED_AT: Final = 100
"""Of so many of the last failures it is told what they failed of."""

FEW_SUCCEED: Final = 0.9
"""Failures are nothing to look at where so many jobs complete."""

TITLES: Final = {"1h": "Last hour", "24h": "Last 24 hours", "7d": "Last 7 days", "30d": "Last 30 days"}

SUBMITTED: Final = Series("submitted", "series-1")
ENDED: Final = (Series("completed", "series-2"), Series("failed", "series-3"), Series("cancelled", "series-4"))


@dataclass(frozen=True, slots=True)
class Slot:
    """A line of the table behind the chart."""

    begins_at: str
    counts: Counts


async def show_overview(visit: Visit) -> Response:
    """What is running, what is stuck and why, what failed, what it cost."""
    window = WINDOWS.get(visit.request.query_params.get("window", ""), WINDOWS[DEFAULT_WINDOW])
    standing = await read_standing(visit.ctx)
    found = await read_statistics(visit.ctx, window, None)
    async with visit.ctx.db.reading() as connection:
        failures = await statistics_queries.list_failures(connection, limit=LOOKED_AT)
    return visit.render(
        "overview.html",
        standing=standing,
        troubles=list_troubles(standing, visit.ctx.now()),
        now_figures=_now_figures(standing),
        windows=[(name, title, name == window.name) for name, title in TITLES.items()],
        title=TITLES[window.name],
        found=found,
        total=found.total,
        success=_percent(found.total.success_rate),
        polled=_percent(found.total.poll_share),
        chart=_draw(found),
        legend=[SUBMITTED, *ENDED],
        slots=[Slot(_exact(begins, window), counts) for begins, counts in found.slots],
        models=_with_meters(found.models),
        teams=_shares(found.teams, lambda counts: counts.credits),
        operations=_shares(found.operations, lambda counts: counts.submitted),
        more_models=max(len(found.models) - SHOWN_GROUPS, 0),
        failures=sorted(failures, key=lambda row: row.completed_at, reverse=True)[:SHOWN_FAILURES],
        many_failed=(found.total.success_rate or 0) < FEW_SUCCEED,
        codes=_count_codes(failures),
        looked_at=len(failures),
    )


def _now_figures(standing: Standing) -> dict[str, str]:
    """What stands below figures, in words."""
    load = standing.load
    return {
        "slots": f"of {number(standing.cap_lowered_to or standing.cap)} at once",
        "oldest": f"the oldest for {duration(load.oldest_waiting_seconds)}" if load.waiting else "nothing waits",
        "ambiguous": f", {number(load.ambiguous)} unconfirmed" if load.ambiguous else "",
    }


def _draw(found: Statistics) -> Markup:
    counts = [counts for _, counts in found.slots]
    total = found.total
    words = ", ".join(f"{number(getattr(total, each.name))} {each.name}" for each in (SUBMITTED, *ENDED))
    bars = [
        Bar(_label(begins, found.window), _tell(begins, found.window, each), _ended(each), each.submitted)
        for (begins, _), each in zip(found.slots, counts, strict=True)
    ]
    return stacked_bars(bars, ENDED, SUBMITTED, label=f"Jobs over time, {TITLES[found.window.name].lower()}: {words}.")


def _ended(counts: Counts) -> list[int]:
    """Never below nothing, though an end may be taken back from where it is not counted any more."""
    return [max(getattr(counts, each.name), 0) for each in ENDED]


def _tell(begins: datetime, window: Window, counts: Counts) -> str:
    lines = [f"{number(getattr(counts, each.name))} {each.name}" for each in (SUBMITTED, *ENDED)]
    return "\n".join([_exact(begins, window), *lines])


def _label(begins: datetime, window: Window) -> str:
    """What stands below a slot: round times, midnights, Mondays; below most of them nothing, so that all can be read."""
    if window.name in ("1h", "24h"):
        every = 10 if window.name == "1h" else 240
        return f"{begins:%H:%M}" if (begins.hour * 60 + begins.minute) % every == 0 else ""
    chosen = begins.hour == 0 if window.name == "7d" else begins.weekday() == 0
    return f"{begins.day} {begins:%b}" if chosen else ""


def _exact(begins: datetime, window: Window) -> str:
    day = f"{begins:%a} {begins.day} {begins:%b}"
    return day if window.name == "30d" else f"{day}, {begins:%H:%M} to {begins + window.step:%H:%M} UTC"


def _with_meters(models: Sequence[Group]) -> list[dict[str, Any]]:
    shown = models[:SHOWN_GROUPS]
    longest = {
        name: max((getattr(group, name).p95 or 0.0 for group in shown), default=0.0) for name in ("queue", "generation")
    }

    def bar(took: Percentiles, kind: str, style: str) -> Markup:
        return meter(took.p50, longest[kind], style, took.p95)

    return [
        {
            "group": group,
            "rate": _percent(group.counts.success_rate),
            "queue": bar(group.queue, "queue", "series-5"),
            "generation": bar(group.generation, "generation", "series-1"),
        }
        for group in shown
    ]


def _shares(groups: Sequence[Group], figure: Callable[[Counts], int]) -> list[dict[str, Any]]:
    """Groups by a figure, the largest first, with a bar that tells how they compare."""
    ordered = sorted(groups, key=lambda group: figure(group.counts), reverse=True)[:SHOWN_GROUPS]
    most = max((figure(group.counts) for group in ordered), default=0)
    return [
        {
            "group": group,
            "rate": _percent(group.counts.success_rate),
            "bar": meter(figure(group.counts), most, "series-6"),
        }
        for group in ordered
    ]


def _count_codes(failures: Sequence[AnyRow]) -> list[tuple[str, int]]:
    codes = [row.error_code for row in failures if row.error_code]
    return sorted(((code, codes.count(code)) for code in set(codes)), key=lambda pair: (-pair[1], pair[0]))


def _percent(share: float | None) -> str:
    """Rounded, but never up to all of them."""
    if share is None:
        return NONE
    percent = share * 100
    return f"{percent:.0f} %" if percent in (0, 100) else f"{min(max(percent, 0.1), 99.9):.1f} %"
