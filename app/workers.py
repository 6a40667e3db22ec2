"""The table of background loops. Any number of processes may run them against one database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog

from app import partitions
from app.context import Context
from app.dashboard import stale
from app.db import OUTAGES
from app.deliveries import deliver, replay
from app.jobs import archiving, dispatch, documents, durations, expire, indexing, reconcile, upstream
from app.loop import keep_running
from app.ops import processes, pruning, tallying, totals

log = structlog.get_logger()

LEAVE_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True)
class Loop:
    """What runs, how often without a nudge (None: every sweep), and what nudges it."""

    name: str
    run_once: Callable[[Context], Awaitable[int]]
    every_seconds: float | None = None
    topics: tuple[str, ...] = ()
    rest_seconds: float = 0  # how long nudges are left alone after a turn that found nothing
    each_upstream: bool = False  # once more for the sandbox


async def _ensure_partitions(ctx: Context) -> int:
    async with ctx.db.transaction() as tx:
        return await partitions.ensure(tx, ctx.now())


LOOPS: Final = (
    Loop("dispatch", dispatch.start_once, topics=("dispatch",), rest_seconds=0.05, each_upstream=True),
    Loop("deliver", deliver.start_first_attempts, topics=("deliver",), rest_seconds=0.01),
    Loop("deliver_again", deliver.start_later_attempts, topics=("deliver_again",)),
    Loop("replay", replay.run_once, topics=("replay",)),
    Loop("reconcile", reconcile.start_once, topics=("poll",), each_upstream=True),
    Loop("archive", archiving.start_once, topics=("archive",), rest_seconds=0.2),
    Loop("archive_late", archiving.tell_late_once, every_seconds=60),
    Loop("expire", expire.run_once, every_seconds=60),
    Loop("durations", durations.refresh_once, every_seconds=60),
    Loop("overdue", durations.tell_overdue_once, every_seconds=15),
    Loop("upstream", upstream.refresh_once, every_seconds=900),
    Loop("index_words", indexing.index_words, topics=("events",), rest_seconds=1),
    Loop("catalog", documents.refresh_once, every_seconds=300),
    Loop("partitions", _ensure_partitions, every_seconds=3600),
    Loop("tally", tallying.run_once, every_seconds=5, topics=("events",), rest_seconds=1),
    Loop("prune_tallies", tallying.prune_once, every_seconds=600),
    Loop("totals", totals.run_once),
    Loop("prune", pruning.prune_once, every_seconds=600),
    Loop("remove_files", pruning.remove_files_once, every_seconds=600),
    Loop("sessions", stale.prune_once, every_seconds=3600),
)


@asynccontextmanager
async def running(ctx: Context, *, role: processes.Role = "serve", loops: bool = True) -> AsyncIterator[None]:
    """Keep the notifier and, unless told otherwise, every loop going for so long, and tell the others how this process is.

    A loop is stopped where it waits; work that it had begun is in `ctx` and is finished before this process takes its leave.
    """
    presence = processes.Presence(ctx, role)
    telling = keep_running("processes", presence.tell, every_seconds=processes.EVERY_SECONDS, notify=ctx.notify)
    tasks = [asyncio.create_task(ctx.notify.run(), name="notify"), asyncio.create_task(telling, name="processes")]
    if loops:
        tasks += [asyncio.create_task(_keep(ctx, loop), name=loop.name) for loop in LOOPS]
        if (sandbox := ctx.sandbox) is not None:
            again = [loop for loop in LOOPS if loop.each_upstream]
            tasks += [asyncio.create_task(_keep(sandbox, loop), name=f"{loop.name} of the sandbox") for loop in again]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await ctx.finish()
        await _leave(presence)


async def _leave(presence: processes.Presence) -> None:
    """Take leave, unless that takes too long: then the others will see that this process is gone."""
    try:
        async with asyncio.timeout(LEAVE_SECONDS):
            await presence.leave()
    except OUTAGES as error:  # a TimeoutError is an OSError
        log.info("process.left_untold", error=str(error)[:200])


async def _keep(ctx: Context, loop: Loop) -> None:
    every = ctx.settings.sweep_seconds if loop.every_seconds is None else loop.every_seconds
    await keep_running(
        loop.name,
        lambda: loop.run_once(ctx),
        every_seconds=every,
        notify=ctx.notify,
        topics=loop.topics,
        rest_seconds=loop.rest_seconds,
        note_turn=ctx.measures.loop(loop.name if ctx.within is None else f"sandbox_{loop.name}", every).note,
    )
