"""What became of the jobs of a run, by our books and the upstream's. Pure: nothing is counted that neither book says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from app.dashboard.breaking import Counts
from app.models.jobs import FINAL

_OF_OUR_OWN: Final = "framehook"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """A job as we keep it. `sent`: the upstream may have it. `shows_result`: its result is that of its upstream job."""

    id: UUID
    status: str
    upstream_id: str | None
    sent: bool
    ended_by: str | None
    concluded_by: str | None
    refused: bool
    shows_result: bool


@dataclass(frozen=True, slots=True)
class Theirs:
    """A generation that the upstream accepted, and will be paid for: under which idempotency key, and how it stands."""

    id: str
    key: str | None
    status: str


def count(ours: Sequence[Ours], theirs: Sequence[Theirs], acknowledged: Collection[UUID], *, more: bool) -> Counts:
    """Count the jobs of a run. `acknowledged` are those that callers were told 202 of; `more`: older ones are left out.

    Ours are read before theirs: what we say of a job, its upstream has said before.
    """
    by_id = {one.id: one for one in theirs}
    open_ = [job for job in ours if job.status not in FINAL]
    kept = {job.id for job in ours}
    oldest = min(kept, default=None) if more else None
    missing = [job_id for job_id in acknowledged if job_id not in kept and (oldest is None or job_id >= oldest)]
    return Counts(
        submitted=len(ours) + len(missing),
        waiting=sum(not job.sent for job in open_),
        in_flight=sum(job.sent for job in open_),
        over_unheard=sum(_status(by_id, job) in FINAL for job in open_),
        completed=sum(job.status == "COMPLETED" for job in ours),
        failed=sum(job.status in ("FAILED", "CANCELLED") for job in ours),
        lost=len(missing) + sum(_is_lost(job, by_id) for job in ours if job.status in FINAL),
        paid_twice=_paid_twice(ours, theirs),
        by_poll=sum(job.ended_by == "poll" for job in ours),
        by_webhook=sum(job.ended_by == "webhook" for job in ours),
        more=more,
    )


def _is_lost(job: Ours, by_id: Mapping[str, Theirs]) -> bool:
    """Whether a job that is over did not come to the end that its upstream gave it. One refused or cancelled by its caller
    came to none there."""
    if job.upstream_id is None:
        return job.status != "CANCELLED" and not job.refused
    if _status(by_id, job) != job.status:
        return True
    return job.concluded_by == _OF_OUR_OWN or (job.status == "COMPLETED" and not job.shows_result)


def _status(by_id: Mapping[str, Theirs], job: Ours) -> str | None:
    found = by_id.get(job.upstream_id or "")
    return found.status if found else None


def _paid_twice(ours: Sequence[Ours], theirs: Iterable[Theirs]) -> int:
    """Generations beyond the first that were accepted for one of these jobs, and jobs beyond the first that share one.

    A submission goes under its job's id, which a derived key begins with.
    """
    kept = {str(job.id) for job in ours}
    paid = Counter(owner for one in theirs if (owner := (one.key or "").partition(":")[0]) in kept)
    shared = Counter(job.upstream_id for job in ours if job.upstream_id is not None)
    return sum(number - 1 for number in (*paid.values(), *shared.values()))


def theirs_of(books: Mapping[str, Any]) -> list[Theirs]:
    """The generations in the simulator's books."""
    return [Theirs(job["job_id"], job["idempotency_key"], job["status"]) for job in books["jobs"]]
