"""End jobs that nobody will end any more: never sent in time, of unknown fate for too long, or running past the deadline.

Each conclusion is ours, so a later final word of the upstream takes its place.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import structlog

from app.apiframe.wire import Observation
from app.context import Context
from app.jobs.announce import settle_and_announce
from app.jobs.observe import LockedJob, lock_jobs, observe, topics
from app.jobs.queries import expiry
from app.jobs.schedule import AMBIGUOUS_WINDOW

log = structlog.get_logger()

AT_ONCE: Final = 100

_NEVER_SENT: Final = ("dispatch_window_passed", "It could not be sent upstream in time")
_UNKNOWN: Final = ("submission_unknown", "The upstream never said whether it accepted this job")
_OVER_TIME: Final = ("deadline_passed", "It did not end upstream in time")


async def run_once(ctx: Context) -> int:
    """End a batch of such jobs, and return how many those were."""
    now = ctx.now()
    async with ctx.db.transaction() as tx:
        ids = await expiry.list_hopeless(
            tx,
            unsent_before=now - timedelta(hours=ctx.settings.dispatch_window_hours),
            ambiguous_before=now - AMBIGUOUS_WINDOW,
            accepted_before=now - timedelta(hours=ctx.settings.job_deadline_hours),
            limit=AT_ONCE,
        )
        jobs = await lock_jobs(tx, ids)
        verdicts = [(job, _verdict(ctx, job, now)) for job in jobs.values()]
        seen = [_conclusion(job, now, *verdict) for job, verdict in verdicts if verdict is not None]
        observed = await observe(ctx, tx, jobs, seen)
        await settle_and_announce(ctx, tx, observed)
    for one in observed:
        log.warning("job.observed", job=str(one.seen.job_id), source="framehook", error_code=one.after.error_code)
    ctx.notify.nudge(topics(observed))
    return len(observed)


def _verdict(ctx: Context, job: LockedJob, now: datetime) -> tuple[str, str] | None:
    """Why a job is to end, as its locked row says now; None where it was helped meanwhile."""
    if job.state.final:
        return None
    if job.state.upstream_id is not None:
        deadline = timedelta(hours=ctx.settings.job_deadline_hours)
        return _OVER_TIME if job.accepted_at is not None and job.accepted_at < now - deadline else None
    if job.ambiguous_since is not None:
        return _UNKNOWN if job.ambiguous_since < now - AMBIGUOUS_WINDOW else None
    window = timedelta(hours=ctx.settings.dispatch_window_hours)
    return _NEVER_SENT if job.created_at < now - window else None


def _conclusion(job: LockedJob, now: datetime, code: str, error: str) -> Observation:
    return Observation(job_id=job.id, source="framehook", at=now, status="FAILED", error=error, error_code=code)
