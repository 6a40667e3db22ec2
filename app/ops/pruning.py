"""Drop what is past retention: a day's partition, a batch of rows, some files at a time. Events and files are declared gone
before they are."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import structlog

from app import partitions
from app.archive.keep import thumbnail_name
from app.archive.queries import keeping
from app.context import Context
from app.deliveries.queries import history, replays
from app.events.queries import forget_days, list_forgotten_days
from app.models.events import Event
from app.objects import Objects, StorageFailed

log = structlog.get_logger()

GRACE: Final = timedelta(minutes=1)
"""Whoever asked for events before they were declared gone has its answer by then: no statement takes so long."""


FILES_AT_ONCE: Final = 100
MOST_ERRORS: Final = 10
"""Files of a round that cannot be removed: after so many the storage is left alone until the next one."""

BATCH: Final = 1000
"""Rows that are deleted in one transaction: few enough to be done in no time."""


async def prune_once(ctx: Context) -> int:
    """Delete a batch of rows and drop the oldest partition that are past retention; return how many those were, in all.

    None means that nothing else may go yet. Rows come first: where a partition is in use, its turn ends in an error.
    """
    now = ctx.now()
    before = now - timedelta(days=ctx.settings.retention_days)
    return await _delete_rows(ctx, before) + await _drop_partition(ctx, before, now)


async def remove_files_once(ctx: Context) -> int:
    """Delete some files that are past their retention, or whose job is gone with their rows; return how many.

    They are not served any more from the first transaction on; a crash before the second has their objects removed again.
    So does what the storage would not remove, which is not counted.
    """
    if ctx.objects is None:
        return 0
    days = ctx.settings.files_days
    before = None if days is None else ctx.now() - timedelta(days=days)
    async with ctx.db.transaction() as tx:
        await keeping.condemn_files(tx, stored_before=before, limit=FILES_AT_ONCE)
    removed = await _remove_objects(ctx, ctx.objects)
    async with ctx.db.transaction() as tx:
        await keeping.forget_objects(tx, removed)
        orphaned = await keeping.delete_orphaned(tx, limit=FILES_AT_ONCE)
    if removed or orphaned:
        log.info("files.deleted", files=len(removed), rows=orphaned)
    return max(len(removed), orphaned)


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


async def _delete_rows(ctx: Context, before: datetime) -> int:
    """Delete deliveries and replays. Retention ends with a day, as it does for the events that they are about."""
    day = before.replace(hour=0, minute=0, second=0, microsecond=0)
    async with ctx.db.transaction() as tx:
        deliveries = await history.delete_ended(tx, day, limit=BATCH)
        replayed = await replays.delete_ended(tx, day, limit=BATCH)
    if deliveries or replayed:
        log.info("rows.deleted", deliveries=deliveries, replays=replayed)
    return deliveries + replayed


async def _drop_partition(ctx: Context, before: datetime, now: datetime) -> int:
    async with ctx.db.transaction() as tx:
        await partitions.lock(tx)
        old = await partitions.list_before(tx, before)
        await forget_days(tx, {day: name for table, day, name in old if table == Event.__tablename__}, now)
        gone = await list_forgotten_days(tx, now - GRACE)
        names = [name for table, day, name in old if table != Event.__tablename__ or day in gone]
        for name in names[:1]:
            await partitions.drop(tx, name)
            log.info("partition.dropped", partition=name)
    return len(names[:1])
