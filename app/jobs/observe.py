"""The one door: every word of the upstream about a job passes here, and nothing else writes `Job.status`.

It takes a list; one observation is a list of one. The jobs' rows are locked by the caller's transaction, in order of id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from app.apiframe.wire import Observation
from app.context import Context
from app.jobs.queries import door
from app.jobs.schedule import poll_seconds
from app.jobs.states import JobState, Outcome, judge


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedJob:
    """A job whose row this transaction holds."""

    id: UUID
    state: JobState
    team_id: UUID
    sent: bool
    hinted: bool
    poll_count: int
    poll_at: datetime | None
    lease_token: UUID | None
    ambiguous_by: UUID | None
    dispatch_count: int
    refusable: bool
    refusal: Mapping[str, object] | None


@dataclass(frozen=True, slots=True)
class Observed:
    """What became of one observation."""

    seen: Observation
    outcome: Outcome | str
    before: JobState
    after: JobState

    @property
    def ended(self) -> bool:
        """Whether the job ended by this, or ended again: our own conclusion yielded."""
        return self.after.final and self.after.concluded_by != self.before.concluded_by


async def lock_jobs(tx: AsyncConnection, job_ids: Iterable[UUID]) -> dict[UUID, LockedJob]:
    """Lock these jobs until the commit, in order of id, and read what the judge needs. Unknown ids are left out."""
    rows = await door.lock_jobs(tx, sorted(set(job_ids)))
    return {
        row.id: LockedJob(
            id=row.id,
            team_id=row.team_id,
            sent=row.sent,
            hinted=row.hinted,
            poll_count=row.poll_count,
            poll_at=row.poll_at,
            lease_token=row.lease_token,
            ambiguous_by=row.ambiguous_by,
            dispatch_count=row.dispatch_count,
            refusable=row.refusable,
            refusal=row.refusal,
            state=JobState(
                status=row.status,
                progress=row.progress,
                error=row.error,
                error_code=row.error_code,
                credit_cost=row.credit_cost,
                completed_at=row.completed_at,
                concluded_by=row.concluded_by,
                upstream_id=row.upstream_id,
            ),
        )
        for row in rows
    }


async def observe(
    ctx: Context, tx: AsyncConnection, jobs: Mapping[UUID, LockedJob], seen: Sequence[Observation]
) -> list[Observed]:
    """Apply observations of locked jobs in their order and write the jobs that changed, once each."""
    taken = await _taken_ids(tx, jobs, seen)
    states = {job.id: job.state for job in jobs.values()}
    heard: dict[UUID, Observation] = {}
    observed = []
    for one in seen:
        job, before = jobs[one.job_id], states[one.job_id]
        forbidden = _may_not_teach(job, before, one, taken)
        after, outcome = (before, forbidden) if forbidden else judge(before, one)
        states[job.id] = after
        if after.upstream_id is not None:
            taken.setdefault(after.upstream_id, job.id)
        if after != before or one.source == "poll":
            heard[job.id] = one
        observed.append(Observed(one, outcome, before, after))
    await door.update_observed(
        tx,
        [
            door.ObservedRow(job_id, states[job_id], _poll_at(ctx, jobs[job_id], states[job_id], last), last.request_id)
            for job_id, last in sorted(heard.items())
        ],
        now=ctx.now(),
    )
    return observed


def _may_not_teach(job: LockedJob, state: JobState, seen: Observation, taken: Mapping[str, UUID]) -> str | None:
    """Why a webhook may not tell us a job's upstream id: the job was never sent, or the id is another job's."""
    if seen.source != "webhook" or state.upstream_id is not None or seen.upstream_id is None:
        return None
    if not job.sent:
        return "never sent"
    return "other job" if taken.get(seen.upstream_id, job.id) != job.id else None


async def _taken_ids(
    tx: AsyncConnection, jobs: Mapping[UUID, LockedJob], seen: Sequence[Observation]
) -> dict[str, UUID]:
    taught = {
        one.upstream_id
        for one in seen
        if one.source == "webhook" and one.upstream_id is not None and jobs[one.job_id].state.upstream_id is None
    }
    return await door.find_by_upstream_ids(tx, sorted(taught)) if taught else {}


def _poll_at(ctx: Context, job: LockedJob, state: JobState, last: Observation) -> datetime | None:
    """When to ask next, as of the last word heard: also where we had given a job up that the upstream has after all.

    At once where an unsigned hint came before we knew whom to ask, and where a submission had to be repeated: what the
    upstream said in between may have been lost.
    """
    if state.upstream_id is None or state.concluded_by == "upstream":
        return None
    early_hint = job.hinted and job.state.upstream_id is None
    if last.source == "poll" and job.poll_at not in (None, last.asked_until):
        # A hint moved it while the answer was on its way: what the upstream has to say now may be newer.
        return job.poll_at
    if early_hint or (last.source == "submit" and job.lease_token != job.ambiguous_by):
        return ctx.now()
    regular = ctx.now() + timedelta(seconds=poll_seconds(ctx.settings, job.poll_count))
    # A hint may have been about the end, which a progress report that comes after it is not.
    return min(regular, job.poll_at) if last.source == "webhook" and job.hinted and job.poll_at else regular


def topics(observed: Iterable[Observed]) -> set[str]:
    """Whom to nudge after the commit: the jobs' waiters, and the Dispatcher where a slot became free."""
    changed = [one for one in observed if one.after != one.before]
    freed = {"dispatch"} if any(one.ended for one in changed) else set[str]()
    return {f"job:{one.seen.job_id}" for one in changed} | freed
