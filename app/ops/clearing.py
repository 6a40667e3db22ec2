"""Say what is past its time, or let all of it go at once instead of bit by bit. The rules are those of `pruning`."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from app import partitions
from app.archive.queries import keeping
from app.context import Context
from app.ops import pruning
from app.ops.pruning import Kind
from app.partitions import Partition, PartitionInUse

MOST_COUNTED: Final = 10_000
"""Rows of a kind that are counted before they go; beyond that there are simply more."""

FILES: Final = "files"

PATIENCE_SECONDS: Final = 15.0
"""So long, and as long as readers of events have, partitions are waited for that cannot be dropped yet."""

_LOOK_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Day:
    """A partition, with its rows as PostgreSQL estimates them (None: it never counted) and its bytes."""

    partition: Partition
    row_count: int | None
    byte_count: int


@dataclass(slots=True)
class Clearing:
    """What would go, or went: days of partitioned tables, and rows by kind. Those in `more` were not counted to the end."""

    days: list[Day] = field(default_factory=list)
    rows: Counter[str] = field(default_factory=Counter)
    more: set[str] = field(default_factory=set)
    in_use: list[str] = field(default_factory=list)  # partitions that could not be dropped


async def foresee(ctx: Context, kinds: Sequence[Kind]) -> Clearing:
    """What would go now. Files of jobs that would go themselves are not among it."""
    seen = Clearing()
    async with ctx.db.reading() as connection:
        old = await pruning.list_old_partitions(ctx, connection)
        sizes = await partitions.measure(connection, [each.name for each in old])
        seen.days = [Day(each, *sizes[each.name]) for each in old if each.name in sizes]
        counts = {}
        for kind in kinds:
            before = pruning.time_of(ctx, kind)
            if before is not None:
                counts[kind.name] = await kind.count(connection, before, limit=MOST_COUNTED + 1)
        if ctx.objects is not None:
            stored_before = pruning.files_stored_before(ctx)
            counts[FILES] = await keeping.count_condemned(
                connection, stored_before=stored_before, limit=MOST_COUNTED + 1
            )
    seen.more = {name for name, count in counts.items() if count > MOST_COUNTED}
    seen.rows.update({name: min(count, MOST_COUNTED) for name, count in counts.items()})
    return seen


async def clear(ctx: Context, kinds: Sequence[Kind], told: Callable[[Clearing], None]) -> Clearing:
    """Let all go that is past its time, and return what went; `told` hears of it after each step.

    Events are waited for until whoever reads them has its answer, and a partition that is in use for a while.
    """
    sizes = {day.partition.name: day for day in (await foresee(ctx, kinds)).days}
    gone, moved_at = Clearing(), time.monotonic()
    while True:
        if await _clear_some(ctx, kinds, gone, sizes):
            moved_at = time.monotonic()
            told(gone)
            continue
        async with ctx.db.reading() as connection:
            left = [each.name for each in await pruning.list_old_partitions(ctx, connection)]
        patience = pruning.GRACE.total_seconds() + PATIENCE_SECONDS
        if not left or time.monotonic() - moved_at > patience:
            gone.in_use = left
            return gone
        await asyncio.sleep(_LOOK_SECONDS)


async def _clear_some(ctx: Context, kinds: Sequence[Kind], gone: Clearing, sizes: dict[str, Day]) -> int:
    """One batch of each kind, every partition that can be dropped, and some files; return how many that were."""
    rows = await pruning.delete_rows(ctx, kinds)
    if ctx.objects is not None:
        rows[FILES] = await pruning.remove_files_once(ctx)
    gone.rows.update(rows)
    before, in_use = len(gone.days), set[str]()
    while True:
        try:
            dropped = await pruning.drop_partition(ctx, passed_over=in_use)
        except PartitionInUse as error:
            in_use.add(error.name)
            continue
        if dropped is None:
            return sum(rows.values()) + len(gone.days) - before
        gone.days.append(sizes.get(dropped.name, Day(dropped, None, 0)))
