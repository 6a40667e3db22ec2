"""SQL of reconcile: whom to ask after, and when."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

AnyRow = Row[Any]


async def claim_polls(
    tx: AsyncConnection, *, account: str, keys: Sequence[str], limit: int, now: datetime, until: datetime
) -> Sequence[AnyRow]:
    """Take the jobs that are due to be asked after; whoever took them has until `until`, then they are due again."""
    rows = await tx.execute(
        text(
            """
            UPDATE jobs SET poll_at = :until, poll_count = poll_count + 1
            WHERE id IN (
                SELECT id FROM jobs
                WHERE poll_at <= :now AND upstream_account = :account AND upstream_key = ANY(CAST(:keys AS text[]))
                ORDER BY poll_at LIMIT :limit FOR UPDATE SKIP LOCKED
            )
            RETURNING id, upstream_id, upstream_key
            """
        ),
        {"account": account, "keys": keys, "limit": limit, "now": now, "until": until},
    )
    return rows.all()


async def hint_polls(tx: AsyncConnection, job_ids: Sequence[UUID], *, now: datetime, not_after: datetime) -> set[UUID]:
    """Move the next poll of these locked jobs to now, unless a hint was taken after `not_after`; return those moved."""
    rows = await tx.execute(
        text(
            """
            UPDATE jobs SET poll_hinted_at = :now, poll_at = CASE WHEN upstream_id IS NULL THEN NULL ELSE :now END
            WHERE id = ANY(CAST(:ids AS uuid[])) AND completed_at IS NULL
                AND (poll_hinted_at IS NULL OR poll_hinted_at <= :not_after)
            RETURNING id
            """
        ),
        {"ids": job_ids, "now": now, "not_after": not_after},
    )
    return {row.id for row in rows}
