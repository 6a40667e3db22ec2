"""Let go what is past its time, by kind: a day's partition, a batch of rows, some files at a time. Events and files are
declared gone before they are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from app import partitions
from app.archive.keep import thumbnail_name
from app.archive.queries import keeping
from app.config import Settings
from app.context import Context
from app.deliveries.queries import history, replays
from app.events.queries import forget_days, list_forgotten_days
from app.jobs import removal
from app.jobs.queries.removal import count_ended as count_ended_jobs
from app.models.events import Event
from app.objects import Objects, StorageFailed
from app.partitions import Partition, PartitionInUse
from app.teams import audit
from app.webhooks import queries as receipts

log = structlog.get_logger()

GRACE: Final = timedelta(minutes=1)
"""Whoever asked for events before they were declared gone has its answer by then: no statement takes so long."""

FILES_AT_ONCE: Final = 100
MOST_ERRORS: Final = 10
"""Files of a round that cannot be removed: after so many the storage is left alone until the next one."""

BATCH: Final = 1000
"""Rows that are deleted in one transaction: few enough to be done in no time."""

DAYS: Final[dict[str, Callable[[Settings], int]]] = {
    "events": lambda settings: settings.events_days,
    "steps": lambda settings: settings.events_days,
    "attempts": lambda settings: settings.attempts_days,
    "receipt_bodies": lambda settings: settings.receipts_days,
}
"""How long each table that is partitioned keeps a day."""


class Batch(Protocol):
    """What deletes, or counts, rows of before a time, up to a limit; it says how many."""

    def __call__(self, tx: AsyncConnection, before: datetime, /, *, limit: int) -> Awaitable[int]: ...


@dataclass(frozen=True, slots=True)
class Kind:
    """Rows that go a batch at a time once they are older than so many days; None is for ever."""

    name: str
    days: Callable[[Settings], int | None]
    delete: Batch
    count: Batch


KINDS: Final = (
    Kind("deliveries", lambda settings: settings.attempts_days, history.delete_ended, history.count_ended),
    Kind("replays", lambda settings: settings.attempts_days, replays.delete_ended, replays.count_ended),
    Kind("receipts", lambda settings: settings.receipts_days, receipts.delete_old, receipts.count_old),
    Kind("jobs", lambda settings: settings.jobs_days, removal.delete_ended, count_ended_jobs),
    Kind("audit_entries", lambda settings: settings.audit_days, audit.delete_old, audit.count_old),
)
"""In the order in which they go."""


async def prune_once(ctx: Context) -> int:
    """Delete a batch of rows of each kind and drop the oldest partition that is past its time; return how many, in all.

    None means that nothing else may go now: a partition that is in use is left to a later turn.
    """
    rows = sum((await delete_rows(ctx, KINDS)).values())
    try:
        return rows + (await drop_partition(ctx) is not None)
    except PartitionInUse as error:
        log.warning("partition.in_use", partition=error.name)
        return rows


async def delete_rows(ctx: Context, kinds: Sequence[Kind]) -> dict[str, int]:
    """Delete a batch of rows of each kind, each in a transaction of its own; return how many by kind."""
    counts = {}
    for kind in kinds:
        before = time_of(ctx, kind)
        if before is not None:
            async with ctx.db.transaction() as tx:
                counts[kind.name] = await kind.delete(tx, before, limit=BATCH)
    told = {name: count for name, count in counts.items() if count}
    if told:
        log.info("rows.deleted", **told)
    return counts


def time_of(ctx: Context, kind: Kind) -> datetime | None:
    """Before which time rows of a kind go. That ends with a day, as it does for the events that they are about."""
    days = kind.days(ctx.settings)
    if days is None:
        return None
    return (ctx.now() - timedelta(days=days)).astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


async def list_old_partitions(ctx: Context, connection: AsyncConnection) -> list[Partition]:
    """The partitions that are past their time, oldest first."""
    times = {table: ctx.now() - timedelta(days=days(ctx.settings)) for table, days in DAYS.items()}
    return await partitions.list_before(connection, times)


async def drop_partition(ctx: Context, *, passed_over: Collection[str] = ()) -> Partition | None:
    """Drop the oldest partition that is past its time, but those passed over; None where there is none, or none yet.

    Raises PartitionInUse.
    """
    now = ctx.now()
    async with ctx.db.transaction() as tx:
        await partitions.lock(tx)
        old = await list_old_partitions(ctx, tx)
        await forget_days(tx, {each.day: each.name for each in old if each.table == Event.__tablename__}, now)
        gone = await list_forgotten_days(tx, now - GRACE)
        free = [each for each in old if each.table != Event.__tablename__ or each.day in gone]
        oldest = next((each for each in free if each.name not in passed_over), None)
        if oldest is not None:
            await partitions.drop(tx, oldest.name)
            log.info("partition.dropped", partition=oldest.name)
    return oldest


async def remove_files_once(ctx: Context) -> int:
    """Delete some files that are past their retention, or whose job is gone with their rows; return how many.

    They are not served any more from the first transaction on; a crash before the second has their objects removed again.
    So does what the storage would not remove, which is not counted.
    """
    if ctx.objects is None:
        return 0
    async with ctx.db.transaction() as tx:
        await keeping.condemn_files(tx, stored_before=files_stored_before(ctx), limit=FILES_AT_ONCE)
    removed = await _remove_objects(ctx, ctx.objects)
    async with ctx.db.transaction() as tx:
        await keeping.forget_objects(tx, removed)
        orphaned = await keeping.delete_orphaned(tx, limit=FILES_AT_ONCE)
    if removed or orphaned:
        log.info("files.deleted", files=len(removed), rows=orphaned)
    return max(len(removed), orphaned)


def files_stored_before(ctx: Context) -> datetime | None:
    """Files that were stored before this time are past theirs; None where they are kept for ever."""
    days = ctx.settings.files_days
    return None if days is None else ctx.now() - timedelta(days=days)


async def _remove_objects(ctx: Context, objects: Objects) -> list[UUID]:
    """Remove the objects of some deleted files, and return those of which that worked.

    What cannot be removed keeps nobody else: the next round begins behind what this one came to, and after the last file
    with the first. A storage that is away ends the round after a few.
    """
    async with ctx.db.reading() as connection:
        condemned = await keeping.list_condemned(connection, after=ctx.condemned_after, limit=FILES_AT_ONCE)
        if not condemned:
            condemned = await keeping.list_condemned(connection, after=UUID(int=0), limit=FILES_AT_ONCE)
    removed: list[UUID] = []
    errors: list[str] = []
    for row in condemned:
        ctx.condemned_after = row.id
        try:
            await objects.remove([row.object, thumbnail_name(row.object)])
        except StorageFailed as error:
            errors.append(str(error))
            if len(errors) >= MOST_ERRORS:
                break
        else:
            removed.append(row.id)
    if errors:
        log.warning("files.not_removed", files=len(errors), error=errors[0])
    return removed
