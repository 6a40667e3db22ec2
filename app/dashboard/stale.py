"""Sessions that are over, and what was counted of addresses that tried to sign in: forgotten a day after their end."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from app.context import Context
from app.dashboard import queries
from app.dashboard.sessions import IDLE, LONGEST
from app.ops.pruning import Kind, delete_rows


async def prune_once(ctx: Context) -> int:
    """Forget some of them; return how many."""
    return sum((await delete_rows(ctx, [SESSIONS])).values())


async def _delete(tx: AsyncConnection, before: datetime, *, limit: int) -> int:
    return await queries.delete_stale(tx, used_before=before - IDLE, made_before=before - LONGEST, limit=limit)


async def _count(connection: AsyncConnection, before: datetime, *, limit: int) -> int:
    return await queries.count_stale(connection, used_before=before - IDLE, made_before=before - LONGEST, limit=limit)


SESSIONS: Final = Kind("sessions", lambda _: 1, _delete, _count)
