"""Drop what is past its retention, a day's partition at a time. Events are declared gone before they are."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import structlog

from app import partitions
from app.context import Context
from app.events.queries import forget_days, list_forgotten_days
from app.models.events import Event

log = structlog.get_logger()

GRACE: Final = timedelta(minutes=1)
"""Whoever asked for events before they were declared gone has its answer by then: no statement takes so long."""


async def prune_once(ctx: Context) -> int:
    """Drop the oldest partition that is past retention, and return how many those were: one, or none that may go yet."""
    now = ctx.now()
    before = now - timedelta(days=ctx.settings.retention_days)
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
