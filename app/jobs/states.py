"""What a job may become. Pure: a state and an observation in, a state and a word of explanation out."""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

import msgspec
from msgspec.structs import replace

from app.apiframe.wire import Observation
from app.models.jobs import FINAL, Status

Outcome = Literal["applied", "nothing new", "after the end", "other job", "names no job"]

Fact = Literal["job.dispatched", "job.processing", "job.progress", "job.completed", "job.failed", "job.cancelled"]
"""What subscribers are told of, by the events' own names."""

_RANK: Final[dict[Status, int]] = {"QUEUED": 0, "PROCESSING": 1, "COMPLETED": 2, "FAILED": 2, "CANCELLED": 2}


class JobState(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a job that observations decide."""

    status: Status = "QUEUED"
    progress: int | None = None
    result: str | None = None  # JSON text
    error: str | None = None
    error_code: str | None = None
    credit_cost: int | None = None
    completed_at: datetime | None = None
    concluded_by: Literal["upstream", "framehook"] | None = None
    upstream_id: str | None = None

    @property
    def final(self) -> bool:
        """Whether the job is over, as far as we know."""
        return self.status in FINAL

    @property
    def settled(self) -> bool:
        """Whether dispatch has nothing left to do: the upstream has the job, or the job is over."""
        return self.upstream_id is not None or self.final


def judge(state: JobState, seen: Observation) -> tuple[JobState, Outcome]:
    """Apply one observation. Orderly, late, doubled and reordered sequences with one upstream final end alike.

    A repeated submission may be answered with the job's final status but never with its result: it ends nothing.
    """
    if seen.source == "submit" and seen.status in FINAL:
        seen = replace(seen, status=None)
    if seen.source in ("webhook", "poll") and seen.upstream_id is None:
        return state, "names no job"
    if None not in (state.upstream_id, seen.upstream_id) and state.upstream_id != seen.upstream_id:
        if seen.source != "submit" or state.final:
            return state, "other job"
        # The answer to our own submission knows better than a webhook that told us before: that was about another job.
        state = replace(state, upstream_id=None)
    known = replace(state, upstream_id=state.upstream_id or seen.upstream_id)
    if state.final and not _yields(state, seen):
        return known, "after the end" if known == state else "applied"
    if seen.status in FINAL:
        return _finished(known, seen), "applied"
    moved = _moved(known, seen)
    return moved, "nothing new" if moved == state else "applied"


def _yields(state: JobState, seen: Observation) -> bool:
    """Our own conclusion gives way to the upstream's final word; the upstream's own first final stays."""
    return state.concluded_by == "framehook" and seen.source != "framehook" and seen.status in FINAL


def _finished(state: JobState, seen: Observation) -> JobState:
    """Progress is fixed by the final status, so that it does not depend on which progress reports arrived."""
    assert seen.status is not None
    return JobState(
        status=seen.status,
        progress=100 if seen.status == "COMPLETED" else None,
        result=seen.result,
        error=seen.error,
        error_code=seen.error_code or ("upstream_failed" if seen.status == "FAILED" else None),
        credit_cost=seen.credit_cost if seen.status == "COMPLETED" else None,  # what failed is refunded
        completed_at=seen.completed_at or seen.at,
        concluded_by="framehook" if seen.source == "framehook" else "upstream",
        upstream_id=state.upstream_id,
    )


def facts(before: JobState, after: JobState) -> list[Fact]:
    """What became true between two states of a job, in the order in which it did."""
    found: list[Fact] = []
    if before.upstream_id is None and after.upstream_id is not None:
        found.append("job.dispatched")
    if after.final:
        ended = after.concluded_by != before.concluded_by
        return [*found, _ENDINGS[after.status]] if ended else found
    if after.status != before.status:
        found.append("job.processing")
    if after.progress != before.progress:
        found.append("job.progress")
    return found


_ENDINGS: Final[dict[Status, Fact]] = {
    "COMPLETED": "job.completed",
    "FAILED": "job.failed",
    "CANCELLED": "job.cancelled",
}


def _moved(state: JobState, seen: Observation) -> JobState:
    """Forward only: a late QUEUED or a smaller progress changes nothing."""
    status = state.status
    if seen.status is not None and _RANK[seen.status] > _RANK[status]:
        status = seen.status
    progress = max((value for value in (state.progress, seen.progress) if value is not None), default=None)
    return replace(state, status=status, progress=progress)
