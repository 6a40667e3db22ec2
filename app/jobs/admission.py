"""What a team's limits say to its new jobs, within the transaction that accepts them.

The rows of limited teams are locked, after idempotency keys and before balances, until the commit: no other process
counts a team's jobs meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow
from app.errors import ApiError, Forbidden, TooMany
from app.jobs.queries import admission as queries
from app.jobs.queries.acceptance import NewJob
from app.teams import audit

QUEUE_IS_FULL_SECONDS: Final = 5
"""After so long a caller may try again: when a job that waits is sent depends on the upstream, and cannot be foretold."""


async def refuse(tx: AsyncConnection, jobs: Sequence[NewJob], limits: Mapping[UUID, AnyRow]) -> dict[UUID, ApiError]:
    """Which of these new jobs may not be kept, and why; their Idempotency-Keys are free again.

    The first that find room are let in, in order. Run again after an unknown commit, those are let in that it kept.
    """
    asked = {job.id: job for job in jobs if job.team_id in limits}
    refusals = _forbidden(asked.values(), limits)
    if any(row.queued_limit is not None for row in limits.values()):
        refusals |= await _crowd(tx, [job for job in asked.values() if job.id not in refusals], limits)
    if refusals:
        for job_id in await queries.list_kept(tx, list(refusals)):
            del refusals[job_id]
        await queries.delete_idempotency_keys(tx, [asked[job_id] for job_id in refusals])
    return refusals


async def _crowd(tx: AsyncConnection, jobs: Sequence[NewJob], teams: Iterable[UUID]) -> dict[UUID, ApiError]:
    """Those of these jobs that find no room in their teams' queues."""
    queues = await queries.lock_queues(tx, list(teams))
    kept = await queries.list_kept(tx, [job.id for job in jobs])
    refusals: dict[UUID, ApiError] = {}
    waiting = await queries.count_waiting(tx, jobs[0].upstream_account, queues) if jobs else {}
    for job in jobs:
        limit = queues.get(job.team_id)
        if limit is None or job.id in kept:
            continue
        waiting[job.team_id] += 1
        if waiting[job.team_id] > limit:
            text = f"At most {limit:,} jobs of your team may wait to be sent"
            refusals[job.id] = TooMany(text, retry_after_seconds=QUEUE_IS_FULL_SECONDS)
    return refusals


async def note_retries(tx: AsyncConnection, jobs: Iterable[NewJob], inserted: Iterable[AnyRow]) -> None:
    """Note in the audit log which of these jobs somebody of another team had tried again."""
    new = {row.id for row in inserted}
    for job in jobs:
        if job.retried_by is not None and job.id in new:
            await audit.note(tx, job.retried_by, "job.retried", job.retry_of or "", job.team_id, job=job.id)


def _forbidden(jobs: Iterable[NewJob], teams: Mapping[UUID, AnyRow]) -> dict[UUID, ApiError]:
    refusals: dict[UUID, ApiError] = {}
    for job in jobs:
        team = teams[job.team_id]
        if not is_allowed(job.operation, team.allowed_operations):
            refusals[job.id] = Forbidden(f"Your team may not use {job.operation}")
        elif not is_allowed(job.model, team.allowed_models):
            refusals[job.id] = Forbidden(f"Your team may not use the model {job.model}")
    return refusals


def is_allowed(name: str, patterns: Sequence[str] | None) -> bool:
    """Whether one of these names or patterns fits; None allows everything."""
    return patterns is None or any(fnmatchcase(name, pattern) for pattern in patterns)
