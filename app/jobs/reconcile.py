"""Ask the upstream where nothing was heard. What it answers goes through the same door as its webhooks.

A poll is asked with the key that sent the job. One that comes to nothing costs a wait: the claim already set the next time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from app.apiframe.errors import Refusal, Unclear
from app.apiframe.wire import Observation, observe_payload
from app.context import Context
from app.jobs.observe import Observed, lock_jobs, observe, topics
from app.jobs.queries import polls

log = structlog.get_logger()

AT_ONCE: Final = 20
"""Polls in flight per process; the upstream takes about 500 requests a minute from everybody together."""


async def run_once(ctx: Context) -> int:
    """Ask after the jobs that are due, at most `AT_ONCE`, and return how many those were."""
    now = ctx.now()
    until = now + timedelta(seconds=ctx.settings.lease_seconds)
    async with ctx.db.transaction() as tx:
        due = await polls.claim_polls(
            tx,
            account=ctx.account,
            keys=list(ctx.upstream_keys),
            limit=AT_ONCE,
            now=now,
            until=until,
        )
    await asyncio.gather(*(_poll(ctx, row.id, row.upstream_id, row.upstream_key, until) for row in due))
    return len(due)


async def _poll(ctx: Context, job_id: UUID, upstream_id: str, upstream_key: str, until: datetime) -> None:
    try:
        answer = await ctx.upstream.get_job(ctx.upstream_keys[upstream_key], upstream_id)
    except (Refusal, Unclear) as error:
        log.warning("job.polled", job=str(job_id), upstream_id=upstream_id, said=str(error))
        return
    seen = observe_payload(answer.payload, job_id=job_id, source="poll", at=ctx.now(), request_id=answer.request_id)
    observed = await ctx.batched(apply, replace(seen, asked_until=until))
    ctx.notify.nudge(topics([observed]))
    log.info("job.observed", job=str(job_id), source="poll", outcome=observed.outcome, status=observed.after.status)


async def ask_soon(
    ctx: Context, tx: AsyncConnection, job_ids: Collection[UUID], *, at_most_every: timedelta
) -> set[UUID]:
    """Move the next poll of these locked jobs to now, or as soon as it may be; return those moved to now."""
    if not job_ids:
        return set()
    return await polls.hint_polls(tx, sorted(job_ids), now=ctx.now(), at_most_every=at_most_every)


async def apply(ctx: Context, tx: AsyncConnection, seen: Sequence[Observation]) -> list[Observed]:
    """Put what polls said through the door."""
    jobs = await lock_jobs(tx, [one.job_id for one in seen])
    return await observe(ctx, tx, jobs, seen)
