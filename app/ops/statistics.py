"""How jobs went in a window of time: series, sums, percentiles, and shares by model, team and operation.

Everything is read from tallies, so that it takes as long with ten jobs as with ten million, and is a few seconds behind.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from app.auth import Caller
from app.clock import timestamp
from app.context import Context
from app.db import AnyRow
from app.errors import Forbidden, Invalid
from app.ops import statistics_queries as queries
from app.ops.histogram import percentile
from app.ops.tally_queries import WIDTHS
from app.teams.queries.teams import find_team_id

ALL_TEAMS: Final = "*"
MOST_GROUPS: Final = 100
"""Of models, teams and operations those with the most jobs are told."""

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Window:
    """So many slots up to now. Tallies are kept of spans as wide as the slots."""

    name: str
    span: str
    slot_count: int

    @property
    def step(self) -> timedelta:
        """How wide a slot is."""
        return WIDTHS[self.span]

    def slots(self, now: datetime) -> list[datetime]:
        """When the slots begin; the last one is not over yet."""
        last = now - (now - _EPOCH) % self.step
        return [last - self.step * back for back in reversed(range(self.slot_count))]


WINDOWS: Final[Mapping[str, Window]] = {
    window.name: window
    for window in (
        Window("1h", "minutes", 12),
        Window("24h", "hour", 24),
        Window("7d", "six_hours", 28),
        Window("30d", "day", 30),
    )
}
DEFAULT_WINDOW: Final = "24h"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Jobs that were submitted, and those that ended, with what they cost; by whose word where the upstream said so."""

    submitted: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    by_webhook: int = 0
    by_poll: int = 0
    credits: int = 0

    @property
    def success_rate(self) -> float | None:
        """The share of those that completed, cancelled ones left out; None where there are none."""
        return self.completed / (self.completed + self.failed) if self.completed + self.failed else None

    @property
    def poll_share(self) -> float | None:
        """The share of ends that had to be asked for, since no webhook told of them; None where there are none."""
        return self.by_poll / (self.by_webhook + self.by_poll) if self.by_webhook + self.by_poll else None


@dataclass(frozen=True, slots=True)
class Percentiles:
    """In seconds; None where no job was timed."""

    p50: float | None = None
    p95: float | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """A model, team or operation. Only models are timed."""

    name: str
    counts: Counts
    queue: Percentiles = Percentiles()
    generation: Percentiles = Percentiles()


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """How jobs went in a window. The first slot begins with it; the last one is not over yet."""

    window: Window
    slots: Sequence[tuple[datetime, Counts]]
    total: Counts
    models: Sequence[Group]
    teams: Sequence[Group]
    operations: Sequence[Group]
    queue: Percentiles
    generation: Percentiles
    webhook: Percentiles


async def read_statistics(ctx: Context, window: Window, team_id: UUID | None) -> Statistics:
    """How the jobs of a team went, or with None those of all teams but for tests."""
    slots = window.slots(ctx.now())
    async with ctx.db.reading() as connection:
        sums = await queries.list_sums(connection, team_id, window.span, slots, limit=MOST_GROUPS)
        timings = await queries.list_timings(connection, team_id, window.span, slots)
    took = _Took(timings)
    known = {row.begins_at: _counts(row) for row in sums if row.kind == "slot"}
    named = {kind: [row for row in sums if row.kind == kind] for kind in ("model", "team", "operation")}
    return Statistics(
        window=window,
        slots=[(begins, known.get(begins, Counts())) for begins in slots],
        total=_sum(known.values()),
        models=[
            Group(row.name, _counts(row), took.of("queue", row.name), took.of("generation", row.name))
            for row in named["model"]
        ],
        teams=[Group(row.name, _counts(row)) for row in named["team"]],
        operations=[Group(row.name, _counts(row)) for row in named["operation"]],
        queue=took.of("queue"),
        generation=took.of("generation"),
        webhook=took.of("webhook"),
    )


class _Took:
    """Histograms, by kind and model, and of all models together."""

    def __init__(self, rows: Sequence[AnyRow]) -> None:
        self._counts: dict[tuple[str, str | None], dict[int, int]] = defaultdict(lambda: defaultdict(int))
        for row in rows:
            for model in (row.model, None):
                self._counts[row.kind, model][row.bucket] += row.job_count

    def of(self, kind: str, model: str | None = None) -> Percentiles:
        counts = self._counts.get((kind, model), {})
        return Percentiles(percentile(counts, 0.5), percentile(counts, 0.95))


def _counts(row: AnyRow) -> Counts:
    return Counts(**{field.name: getattr(row, field.name) for field in fields(Counts)})


def _sum(counts: Any) -> Counts:
    each = list(counts)
    return Counts(**{field.name: sum(getattr(one, field.name) for one in each) for field in fields(Counts)})


async def show_statistics(ctx: Context, caller: Caller, query: Mapping[str, str]) -> dict[str, Any]:
    """The answer of `GET /v1/stats`. Raises Forbidden for another team's, Invalid for what there is not."""
    window = WINDOWS.get(query.get("window", DEFAULT_WINDOW))
    if window is None:
        raise Invalid(details={"window": [f"Must be one of {', '.join(WINDOWS)}"]})
    name = query.get("team") or caller.team
    if "\0" in name:
        raise Invalid(details={"team": ["Must not contain a NUL character"]})
    if name != caller.team and not caller.sees_all:
        raise Forbidden("This key sees the statistics of its own team only")
    team_id = None
    if name != ALL_TEAMS:
        async with ctx.db.reading() as connection:
            team_id = await find_team_id(connection, name)
        if team_id is None:
            raise Invalid(details={"team": ["There is no team of this name"]})
    return _shape(await read_statistics(ctx, window, team_id), name)


def _shape(found: Statistics, team: str) -> dict[str, Any]:
    return {
        "window": found.window.name,
        "team": team,
        "from": timestamp(found.slots[0][0]),
        "stepSeconds": int(found.window.step.total_seconds()),
        "series": [{"from": timestamp(begins)} | _shape_series(counts) for begins, counts in found.slots],
        "total": _shape_counts(found.total)
        | {name: _shape_percentiles(getattr(found, name)) for name in ("queue", "generation", "webhook")},
        "models": [
            {"model": group.name}
            | _shape_counts(group.counts)
            | {"queue": _shape_percentiles(group.queue), "generation": _shape_percentiles(group.generation)}
            for group in found.models
        ],
        "teams": [{"team": group.name} | _shape_counts(group.counts) for group in found.teams],
        "operations": [{"operation": group.name} | _shape_counts(group.counts) for group in found.operations],
    }


def _shape_series(counts: Counts) -> dict[str, int]:
    return {name: getattr(counts, name) for name in ("submitted", "completed", "failed", "cancelled")}


def _shape_counts(counts: Counts) -> dict[str, Any]:
    return {
        **_shape_series(counts),
        "credits": counts.credits,
        "successRate": _rounded(counts.success_rate),
        "pollShare": _rounded(counts.poll_share),
    }


def _shape_percentiles(found: Percentiles) -> dict[str, float | None]:
    return {"p50Seconds": _rounded(found.p50), "p95Seconds": _rounded(found.p95)}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
