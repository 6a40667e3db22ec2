"""The table of background loops. Any number of processes may run them against one database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from app import partitions
from app.context import Context
from app.deliveries import deliver, replay
from app.jobs import archiving, dispatch, documents, durations, expire, indexing, reconcile, upstream
from app.loop import keep_running
from app.ops import pruning


@dataclass(frozen=True, slots=True)
class Loop:
    """What runs, how often without a nudge (None: every sweep), and what nudges it."""

    name: str
    run_once: Callable[[Context], Awaitable[int]]
    every_seconds: float | None = None
    topics: tuple[str, ...] = ()
    each_upstream: bool = False  # once more for the sandbox


async def _ensure_partitions(ctx: Context) -> int:
    async with ctx.db.transaction() as tx:
        return await partitions.ensure(tx, ctx.now())


LOOPS: Final = (
    Loop("dispatch", dispatch.start_once, topics=("dispatch",), each_upstream=True),
    Loop("deliver", deliver.start_once, topics=("deliver",)),
    Loop("replay", replay.run_once, every_seconds=1, topics=("replay",)),
    Loop("reconcile", reconcile.start_once, topics=("poll",), each_upstream=True),
    Loop("archive", archiving.start_once, topics=("archive",)),
    Loop("archive_late", archiving.tell_late_once, every_seconds=60),
    Loop("expire", expire.run_once, every_seconds=60),
    Loop("durations", durations.refresh_once, every_seconds=60),
    Loop("overdue", durations.tell_overdue_once, every_seconds=15),
    Loop("upstream", upstream.refresh_once, every_seconds=900),
    Loop("index_words", indexing.index_words, every_seconds=2),
    Loop("catalog", documents.refresh_once, every_seconds=300),
    Loop("partitions", _ensure_partitions, every_seconds=3600),
    Loop("prune", pruning.prune_once, every_seconds=600),
    Loop("remove_files", pruning.remove_files_once, every_seconds=600),
)


@asynccontextmanager
async def running(ctx: Context, *, loops: bool = True) -> AsyncIterator[None]:
    """Keep the notifier and, unless told otherwise, every loop going for so long.

    A loop is stopped where it waits; work that it had begun is in `ctx` and is finished there.
    """
    tasks = [asyncio.create_task(ctx.notify.run(), name="notify")]
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


async def _keep(ctx: Context, loop: Loop) -> None:
    every = ctx.settings.sweep_seconds if loop.every_seconds is None else loop.every_seconds
    await keep_running(
        loop.name, lambda: loop.run_once(ctx), every_seconds=every, notify=ctx.notify, topics=loop.topics
    )
