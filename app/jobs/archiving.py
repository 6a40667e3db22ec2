"""Have the files of completed jobs kept: claim what is due, have it fetched with no transaction open, record, announce.

A file is written down in the transaction that completes its job, and due until its record says what became of it.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from app.archive.keep import Failed, Kept, Prospect, discard, keep, object_name
from app.archive.queries import fetching, reading
from app.archive.queries.fetching import FileOutcome
from app.backoff import exponential
from app.context import Context
from app.db import OUTAGES, AnyRow, is_outage
from app.deliveries.publish import TOPICS
from app.jobs.announce import announce_archived, announce_late
from app.jobs.queries.archiving import list_late, lock_archived, mark_late
from app.jobs.queries.steps import Step, insert_steps

log = structlog.get_logger()

PLACES: Final = 8
"""Files that a process fetches at once."""

SHARE: Final = 2
"""Of one job no more than so many, so that one with slow sources leaves places to others."""

LEASE: Final = timedelta(seconds=60)
RENEW_SECONDS: Final = 15.0
MARGIN: Final = timedelta(seconds=5)
"""Fetching ends so long before a lease that could not be renewed."""

LATE_AFTER: Final = timedelta(hours=20)
"""A job that ended so long ago and has files that are not kept is told of: the purge comes four hours later."""

TOLD_AT_ONCE: Final = 100

FIRST_WAIT_SECONDS: Final = 2.0
LONGEST_WAIT_SECONDS: Final = 900.0
MOST_REFUSALS: Final = 10
"""So many answers of a source that has no such file, or something else instead, are believed: after about 17 minutes."""

MOST_UNRECORDED: Final = 10
"""After so many claims without a record a file is given up: whoever fetches it comes to grief."""

MOST_UNRECORDED_LOOKS: Final = 2
"""After so many a file is kept without being looked at, in case it is the picture that ends the process."""

SOON_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """An attempt at a claimed file. `stopped`: it was broken off because this process is about to end."""

    claimed: AnyRow
    outcome: Kept | Failed
    seconds: float
    stopped: bool = False


async def run_once(ctx: Context) -> int:
    """Fetch what is due, and return how many files that were, once all of them are recorded."""
    tasks = await _start_claimed(ctx)
    if tasks:
        await asyncio.wait(tasks)
    return len(tasks)


async def start_once(ctx: Context) -> int:
    """Like `run_once`, but leave the fetching to itself: a slow source keeps nobody else waiting."""
    return len(await _start_claimed(ctx))


async def _start_claimed(ctx: Context) -> list[asyncio.Task[None]]:
    places = PLACES - len(ctx.fetching)
    if ctx.objects is None or places <= 0 or ctx.closing.is_set():
        return []
    await ctx.webhook_secrets()  # which `record` needs, and would else open a transaction for within its own
    now = ctx.now()
    async with ctx.db.transaction() as tx:
        claimed = await fetching.claim_files(
            tx, places=places, share=SHARE, busy=_busy(ctx), now=now, until=now + LEASE
        )
    ctx.fetching |= {_name(row): row.job_id for row in claimed}
    return [ctx.start(_archive(ctx, row)) for row in claimed]


async def _archive(ctx: Context, claimed: AnyRow) -> None:
    """Fetch one claimed file, unless it is to be given up, and record what came of it."""
    assert ctx.objects is not None
    name = _name(claimed)
    try:
        hopeless = _give_up(claimed, ctx.now())
        fetched = (
            Fetched(claimed=claimed, outcome=hopeless, seconds=0.0) if hopeless else await _fetch(ctx, claimed, name)
        )
        # Without a lease it is for whoever has it now to record what becomes of the file.
        if fetched is not None and await ctx.batched(record, fetched):
            ctx.notify.nudge([*TOPICS, f"job:{claimed.job_id}"])
        await discard_unneeded(ctx, claimed, [*_leftovers(claimed), name])
    finally:
        was_full = len(ctx.fetching) >= PLACES or _busy(ctx)[claimed.job_id] >= SHARE
        del ctx.fetching[name]
        if was_full:
            ctx.notify.nudge(["archive"])
    if fetched is not None:
        _tell(ctx, fetched)


def _name(claimed: AnyRow) -> str:
    """What this attempt's object is called: an attempt that lost its lease may still run here beside the next one."""
    return object_name(claimed.id, claimed.completed_at, claimed.attempt_count)


def _busy(ctx: Context) -> Counter[UUID]:
    """How many files of which jobs are being fetched here."""
    return Counter(job_id for job_id in ctx.fetching.values() if job_id is not None)


def _give_up(claimed: AnyRow, now: datetime) -> Failed | None:
    """Why there is no attempt though a file was claimed: earlier ones went unrecorded, as when each ended its process.

    A file that is past its time is tried once all the same, unless that was done and nobody knows how it ended.
    """
    earlier = claimed.unrecorded_count - 1
    if earlier >= MOST_UNRECORDED:
        return Failed(f"given up: {earlier} attempts were begun and none came to an end", Prospect.NONE)
    if earlier and now >= claimed.give_up_at:
        return Failed("given up: the last attempt was begun and came to no end", Prospect.NONE)
    return None


def _leftovers(claimed: AnyRow) -> list[str]:
    """What attempts may have left that were killed half way: those since the last one that was recorded."""
    unrecorded = range(claimed.attempt_count - claimed.unrecorded_count + 1, claimed.attempt_count)
    return [object_name(claimed.id, claimed.completed_at, attempt) for attempt in unrecorded]


async def discard_unneeded(ctx: Context, claimed: AnyRow, names: Sequence[str]) -> None:
    """Remove those objects of attempts at a file that its row does not name.

    Whatever is known of the record, the database is asked: what it names is served. Where it cannot be asked, nothing is
    removed, and `framehook files verify` finds what is left.
    """
    assert ctx.objects is not None
    try:
        async with ctx.db.reading() as connection:
            needed = await reading.list_needed_objects(connection, [claimed.id])
    except OUTAGES as error:
        if not is_outage(error):
            raise
        log.info("files.not_removed", names=names, error="the database is away")
        return
    await discard(ctx.objects, [name for name in names if name not in needed])


async def _fetch(ctx: Context, claimed: AnyRow, name: str) -> Fetched | None:
    """Keep a file for as long as its lease can be renewed and this process goes on; None: the lease was lost."""
    assert ctx.objects is not None
    started, leased_until = ctx.now(), claimed.leased_until
    unseen = claimed.unrecorded_count > MOST_UNRECORDED_LOOKS
    keeping = asyncio.create_task(keep(ctx, ctx.objects, claimed.source, name, unseen=unseen))
    closing = asyncio.create_task(ctx.closing.wait())
    try:
        while not keeping.done():
            left = (leased_until - MARGIN - ctx.now()).total_seconds()
            if left <= 0:
                return None
            await asyncio.wait({keeping, closing}, timeout=min(RENEW_SECONDS, left), return_when="FIRST_COMPLETED")
            if keeping.done():
                break
            if closing.done():
                return _fetched(ctx, claimed, Failed("this process is stopped"), started, stopped=True)
            leased_until = await _renew(ctx, claimed, leased_until)
        return _fetched(ctx, claimed, _outcome_of(keeping, claimed), started)
    finally:
        for task in (keeping, closing):
            task.cancel()
        await asyncio.gather(keeping, closing, return_exceptions=True)


def _outcome_of(keeping: asyncio.Task[Kept | Failed], claimed: AnyRow) -> Kept | Failed:
    error = keeping.exception()
    if error is None:
        return keeping.result()
    # Whatever it is, it is recorded as a failure: unrecorded it would be repeated at every lease's end, for ever.
    log.error("file.failed", file=str(claimed.id), exc_info=error)
    return Failed(f"an error of ours: {type(error).__name__}")


def _fetched(
    ctx: Context, claimed: AnyRow, outcome: Kept | Failed, started: datetime, *, stopped: bool = False
) -> Fetched:
    return Fetched(claimed=claimed, outcome=outcome, seconds=(ctx.now() - started).total_seconds(), stopped=stopped)


async def _renew(ctx: Context, claimed: AnyRow, leased_until: datetime) -> datetime:
    """When the lease ends now. A database that is away leaves it as it is, a lease that is another's ends it."""
    try:
        return await ctx.batched(renew, claimed) or ctx.now()
    except OUTAGES as error:
        if not is_outage(error):
            raise
        return leased_until


async def renew(ctx: Context, tx: AsyncConnection, claims: Sequence[AnyRow]) -> list[datetime | None]:
    """Lengthen leases; None for one that stands no more."""
    until = ctx.now() + LEASE
    ours = await fetching.renew_leases(tx, claims, until=until)
    return [until if claimed.lease_token in ours else None for claimed in claims]


async def record(ctx: Context, tx: AsyncConnection, fetched: Sequence[Fetched]) -> list[bool]:
    """Write down what became of files that are still under their leases, and announce jobs of which that was the last.

    Answers which are so recorded: now, or by a run of this batch before whose COMMIT had an unknown fate, when it has taken
    the lease with it. The jobs are locked, so that of two files that end at once one is the last.
    """
    now = ctx.now()
    jobs = await lock_archived(tx, {one.claimed.job_id for one in fetched} - {None})
    ours = await fetching.lock_leased(tx, [one.claimed for one in fetched])
    counted = [one for one in fetched if one.claimed.lease_token in ours]
    outcomes = {one.claimed.id: _judge(one, now) for one in counted}
    await fetching.record_outcomes(tx, list(outcomes.values()), now=now)
    await insert_steps(tx, [_step(one, outcomes[one.claimed.id], now) for one in counted if one.claimed.job_id])
    ended = {one.claimed.job_id for one in counted if outcomes[one.claimed.id].status != "pending"} & jobs
    await announce_archived(ctx, tx, await fetching.list_settled_jobs(tx, ended))
    others = [one for one in fetched if one.claimed.lease_token not in ours]
    kept = {one.outcome.object: one.claimed.id for one in others if isinstance(one.outcome, Kept)}
    before = await fetching.list_stored_as(tx, kept)
    return [
        one.claimed.lease_token in ours or (isinstance(one.outcome, Kept) and one.outcome.object in before)
        for one in fetched
    ]


async def tell_late_once(ctx: Context) -> int:
    """Tell of jobs whose files are not kept though their purge is near, once each; return how many those were."""
    await ctx.webhook_secrets()
    async with ctx.db.transaction() as tx:
        late = await list_late(tx, completed_before=ctx.now() - LATE_AFTER, limit=TOLD_AT_ONCE)
        jobs = await mark_late(tx, await lock_archived(tx, late)) if late else set()
        if jobs:
            await announce_late(ctx, tx, jobs)
    for job_id in jobs:
        log.warning("job.archive_late", job=str(job_id))
    if jobs:
        ctx.notify.nudge(TOPICS)
    return len(late)


def _judge(fetched: Fetched, now: datetime) -> FileOutcome:
    claimed, outcome = fetched.claimed, fetched.outcome
    if isinstance(outcome, Kept):
        return FileOutcome(
            id=claimed.id,
            status="stored",
            reason=outcome.note,
            object=outcome.object,
            thumbnail=outcome.thumbnail,
            content_type=outcome.content_type,
            byte_count=outcome.byte_count,
            sha256=outcome.sha256,
            width=outcome.width,
            height=outcome.height,
        )
    refusals = claimed.refused_count + (outcome.prospect is Prospect.POOR)
    if fetched.stopped:
        return _put_back(claimed, outcome, now)
    seconds = wait_seconds(claimed.attempt_count, random.random())  # noqa: S311 - jitter
    due_at = now + timedelta(seconds=seconds)
    over = outcome.prospect is Prospect.NONE or refusals >= MOST_REFUSALS or due_at >= claimed.give_up_at
    return FileOutcome(
        id=claimed.id,
        status="failed" if over else "pending",
        reason=outcome.reason,
        refused_count=refusals,
        due_at=None if over else due_at,
    )


def _put_back(claimed: AnyRow, outcome: Failed, now: datetime) -> FileOutcome:
    """An attempt that this process broke off says nothing about the file: another one is due at once, however late it is."""
    return FileOutcome(
        id=claimed.id, status="pending", reason=outcome.reason, refused_count=claimed.refused_count, due_at=now
    )


def wait_seconds(attempt: int, spread: float) -> float:
    """How long to wait after so many attempts at a file."""
    return exponential(attempt, first=FIRST_WAIT_SECONDS, most=LONGEST_WAIT_SECONDS, spread=spread)


def _step(fetched: Fetched, outcome: FileOutcome, now: datetime) -> Step:
    what: Mapping[str, Any] = {
        "fileId": str(outcome.id),
        "status": outcome.status,
        "reason": outcome.reason,
        "attempt": fetched.claimed.attempt_count,
        "seconds": round(fetched.seconds, 3),
        "contentType": outcome.content_type,
        "bytes": outcome.byte_count,
    }
    return Step(job_id=fetched.claimed.job_id, at=now, kind="archive", source="framehook", data=what)


def _tell(ctx: Context, fetched: Fetched) -> None:
    claimed, outcome = fetched.claimed, fetched.outcome
    if isinstance(outcome, Failed) and not fetched.stopped:
        again = wait_seconds(claimed.attempt_count, 1.0)
        if again <= SOON_SECONDS:
            asyncio.get_running_loop().call_later(again, ctx.notify.nudge, ["archive"])
    log.info(
        "file.archived",
        file=str(claimed.id),
        job=str(claimed.job_id),
        attempt=claimed.attempt_count,
        error=outcome.reason if isinstance(outcome, Failed) else None,
        bytes=outcome.byte_count if isinstance(outcome, Kept) else None,
        seconds=round(fetched.seconds, 3),
    )
