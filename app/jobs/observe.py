"""The one door: every word of the upstream about a job passes here, and nothing else writes `Job.status`.

It takes a list; one observation is a list of one. The jobs' rows are locked by the caller's transaction, in order of id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, cast
from uuid import UUID

import msgspec
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from app.apiframe.wire import Observation
from app.archive.queries.fetching import insert_files
from app.context import Context
from app.db import AnyRow
from app.deliveries.publish import TOPICS
from app.jobs.outputs import files_of
from app.jobs.queries import door
from app.jobs.queries.steps import Step
from app.jobs.schedule import Expected, expected_of, poll_seconds
from app.jobs.states import Fact, JobState, Outcome, facts, judge

PROGRESS_EVERY: Final = timedelta(seconds=1)
"""Subscribers are told of a job's progress at most so often."""


class LockedJob(msgspec.Struct, frozen=True):
    """A job whose row this transaction holds. From `team_id` on, the fields are in the order in which `door` reads them."""

    id: UUID
    state: JobState
    expected: Expected
    team_id: UUID
    created_at: datetime
    accepted_at: datetime | None
    ambiguous_since: datetime | None
    hinted: bool
    poll_count: int
    poll_at: datetime | None
    lease_token: UUID | None
    ambiguous_by: UUID | None
    dispatch_count: int
    refusable: bool
    refusal: Mapping[str, object] | None
    missing_count: int
    missing_since: datetime | None
    progress_event_at: datetime | None

    @property
    def sent(self) -> bool:
        """Whether the upstream may ever have received it."""
        return self.ambiguous_since is not None


class Observed(msgspec.Struct, frozen=True):
    """What became of one observation. `job` is the job as the transaction left it, None where that is as it was before."""

    seen: Observation
    outcome: Outcome | str
    before: JobState
    after: JobState
    facts: tuple[Fact, ...] = ()
    job: AnyRow | None = None

    @property
    def ended(self) -> bool:
        """Whether the job ended by this, or ended again: our own conclusion yielded."""
        return self.after.final and self.after.concluded_by != self.before.concluded_by


async def lock_jobs(tx: AsyncConnection, job_ids: Iterable[UUID]) -> dict[UUID, LockedJob]:
    """Lock these jobs until the commit, in order of id, and read what the judge needs. Unknown ids are left out."""
    rows = await door.lock_jobs(tx, sorted(set(job_ids)))
    return {row[0]: _locked(row) for row in rows}


def _locked(row: AnyRow) -> LockedJob:
    """A job of its row. By position, since a row is a tuple that finds its columns by name slowly."""
    job_id, operation, p50, p95, p99, *rest = cast(tuple[Any, ...], row)
    status, progress, error, error_code, credit_cost, completed_at, concluded_by, upstream_id, *rest = rest
    state = JobState(
        status=status,
        progress=progress,
        error=error,
        error_code=error_code,
        credit_cost=credit_cost,
        completed_at=completed_at,
        concluded_by=concluded_by,
        upstream_id=upstream_id,
    )
    expected = expected_of(operation) if p50 is None else Expected(p50, p95, p99)
    return LockedJob(job_id, state, expected, *rest)


async def observe(
    ctx: Context, tx: AsyncConnection, jobs: Mapping[UUID, LockedJob], seen: Sequence[Observation]
) -> list[Observed]:
    """Apply observations of locked jobs in their order and write the jobs that changed, once each.

    `settle_and_announce` is to follow, as the last act of the same transaction.
    """
    taken = await _taken_ids(tx, jobs, seen)
    states = {job.id: job.state for job in jobs.values()}
    told = {job.id: job.progress_event_at for job in jobs.values()}
    heard: dict[UUID, Observation] = {}
    enders: dict[UUID, str] = {}
    observed: list[Observed] = []
    for one in seen:
        job, before = jobs[one.job_id], states[one.job_id]
        forbidden = _may_not_teach(job, before, one, taken)
        after, outcome = (before, forbidden) if forbidden else judge(before, one)
        states[job.id] = after
        if after.upstream_id is not None:
            taken.setdefault(after.upstream_id, job.id)
        if after != before or one.source == "poll":
            heard[job.id] = one
        observed.append(Observed(one, outcome, before, after, _facts(ctx, job.id, before, after, told)))
        if observed[-1].ended:
            enders[job.id] = one.source
    rows = [
        _row(ctx, jobs[job_id], states[job_id], last, told[job_id], enders.get(job_id))
        for job_id, last in sorted(heard.items())
    ]
    steps = [_step(ctx, one) for one in observed if _is_transition(one)]
    written = await door.update_observed(tx, rows, steps, now=ctx.now())
    files = [file for job_id in enders for file in files_of(written[job_id], ctx.archived, ctx.now())]
    await insert_files(tx, files, now=ctx.now())
    return [replace(one, job=written.get(one.seen.job_id)) for one in observed]


def _facts(
    ctx: Context, job_id: UUID, before: JobState, after: JobState, told: dict[UUID, datetime | None]
) -> tuple[Fact, ...]:
    """What subscribers are to be told; of its progress, not more often than every `PROGRESS_EVERY` (noted in `told`)."""
    found = facts(before, after)
    last = told[job_id]
    if "job.progress" in found:
        if last is not None and last > ctx.now() - PROGRESS_EVERY:
            found.remove("job.progress")
        else:
            told[job_id] = ctx.now()
    return tuple(found)


def _row(
    ctx: Context,
    job: LockedJob,
    state: JobState,
    last: Observation,
    progress_event_at: datetime | None,
    ended_by: str | None,
) -> door.ObservedRow:
    accepted = state.upstream_id is not None and not state.final
    overdue_at = ctx.now() + timedelta(seconds=job.expected.p99) if accepted else None
    poll_at = _poll_at(ctx, job, state, last)
    return door.ObservedRow(job.id, state, poll_at, overdue_at, progress_event_at, last.request_id, ended_by)


def _is_transition(one: Observed) -> bool:
    """Whether a trace should tell of it: progress alone is in the receipts."""
    before, after = one.before, one.after
    said = (after.status, after.upstream_id, after.concluded_by)
    return said != (before.status, before.upstream_id, before.concluded_by)


def _step(ctx: Context, one: Observed) -> Step:
    after = one.after
    data = {
        "from": one.before.status,
        "to": after.status,
        "progress": after.progress,
        "upstreamId": after.upstream_id,
        "errorCode": after.error_code,
        "concludedBy": after.concluded_by,
    }
    return Step(job_id=one.seen.job_id, at=ctx.now(), kind="transition", source=one.seen.source, data=data)


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
    if state.upstream_id is None or state.concluded_by == "upstream" or _is_past_asking(ctx, job, state):
        return None
    early_hint = job.hinted and job.state.upstream_id is None
    if last.source == "poll" and job.poll_at not in (None, last.asked_until):
        # A hint moved it while the answer was on its way: what the upstream has to say now may be newer.
        return job.poll_at
    if early_hint or (last.source == "submit" and job.lease_token != job.ambiguous_by):
        return ctx.now()
    regular = ctx.now() + timedelta(seconds=poll_seconds(ctx.settings, job.expected, job.poll_count))
    # A hint may have been about the end, which a progress report that comes after it is not.
    return min(regular, job.poll_at) if last.source == "webhook" and job.hinted and job.poll_at else regular


def _is_past_asking(ctx: Context, job: LockedJob, state: JobState) -> bool:
    """Whether we gave up a job that the upstream had long enough to end."""
    deadline = timedelta(hours=ctx.settings.job_deadline_hours)
    return state.final and (
        state.error_code == "upstream_lost" or (job.accepted_at or ctx.now()) < ctx.now() - deadline
    )


def topics(observed: Iterable[Observed]) -> set[str]:
    """Whom to nudge after the commit: the jobs' waiters, readers of events, and where one ended, Dispatcher and Archiver."""
    changed = [one for one in observed if one.after != one.before]
    freed = {"dispatch", "archive"} if any(one.ended for one in changed) else set[str]()
    told = set(TOPICS) if any(one.facts for one in changed) else set[str]()
    return {f"job:{one.seen.job_id}" for one in changed} | freed | told
