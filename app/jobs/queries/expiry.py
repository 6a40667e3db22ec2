"""SQL of expiry: which jobs nobody will end any more, and which take longer than their model does."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow
from app.models.jobs import IN_FLIGHT
from app.statements import Statement


async def list_hopeless(
    tx: AsyncConnection, *, unsent_before: datetime, ambiguous_before: datetime, accepted_before: datetime, limit: int
) -> list[UUID]:
    """Unlocked jobs that wait for too long to be sent, for word of their submission, or for their end."""
    rows = await _LIST_HOPELESS.fetch(
        tx,
        {
            "unsent_before": unsent_before,
            "ambiguous_before": ambiguous_before,
            "accepted_before": accepted_before,
            "limit": limit,
        },
    )
    return [row.id for row in rows]


_LIST_HOPELESS: Final = Statement(
    f"""
    SELECT id FROM jobs
    WHERE dispatch_at IS NOT NULL
        AND (CASE WHEN ambiguous_since IS NULL THEN created_at < :unsent_before
             ELSE ambiguous_since < :ambiguous_before END)
    UNION ALL
    SELECT id FROM jobs WHERE {IN_FLIGHT} AND accepted_at < :accepted_before
    LIMIT :limit
    """  # noqa: S608 - the only part put in is a constant of ours
)


async def tell_overdue(tx: AsyncConnection, now: datetime, *, limit: int) -> Sequence[AnyRow]:
    """Mark jobs that take longer than 99 in 100 of their model as told of, and return them: each once."""
    return await _TELL_OVERDUE.fetch(tx, {"now": now, "limit": limit})


_TELL_OVERDUE: Final = Statement(
    """
    UPDATE jobs SET overdue_told = true
    WHERE id IN (
        SELECT id FROM jobs
        WHERE overdue_at <= :now AND NOT overdue_told AND completed_at IS NULL
        ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    RETURNING id, team_id, operation, model, upstream_id, accepted_at
    """
)
