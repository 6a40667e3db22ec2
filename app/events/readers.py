"""Readers of ours that follow the log for what they make of it in the database. Each has a place in it, which moves in the
transaction that keeps what was made of the events up to there: every event is used once, whatever crashes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow
from app.statements import Statement


async def read_on(
    tx: AsyncConnection, name: str, types: Sequence[str], now: datetime, *, limit: int
) -> tuple[Sequence[AnyRow], bool]:
    """The next events of these types for a reader (sequence, type, at, job_id, team_id), and whether there may be more.

    Its place is locked until the commit, and moved past them. Where another process holds it, there is nothing to do here.
    Events that retention took away are passed over. `limit` counts events of any type.
    """
    place = await _LOCK.fetch_one(tx, {"name": name})
    if place is None:
        # Another process has it, unless this is the first time that anybody reads by this name.
        await _BEGIN.fetch(tx, {"name": name, "now": now})
        place = await _LOCK.fetch_one(tx, {"name": name})
    if place is None:
        return [], False
    rows = await _READ.fetch(tx, {"after": place.sequence, "limit": limit})
    if rows:
        await _MOVE.fetch(tx, {"name": name, "sequence": rows[-1].sequence, "now": now})
    return [row for row in rows if row.type in types], len(rows) == limit


# Where the row is there it is left alone: an insertion would wait for whoever moves it.
_BEGIN: Final = Statement(
    """
    INSERT INTO log_readers (name, sequence, updated_at, began_at)
    SELECT :name, 0, :now, :now WHERE NOT EXISTS (SELECT FROM log_readers WHERE name = :name)
    ON CONFLICT (name) DO NOTHING
    """
)
_LOCK: Final = Statement("SELECT sequence FROM log_readers WHERE name = :name FOR UPDATE SKIP LOCKED")
_READ: Final = Statement(
    "SELECT sequence, type, at, job_id, team_id FROM events WHERE sequence > :after ORDER BY sequence LIMIT :limit"
)
_MOVE: Final = Statement("UPDATE log_readers SET sequence = :sequence, updated_at = :now WHERE name = :name")
