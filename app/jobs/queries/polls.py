"""SQL of reconcile: whom to ask after, and when."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow


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


async def hint_polls(
    tx: AsyncConnection, job_ids: Sequence[UUID], *, now: datetime, at_most_every: timedelta
) -> set[UUID]:
    """Move the next poll of these locked jobs to now and return those moved.

    Where a hint was taken less than `at_most_every` ago, the poll moves to the end of that time instead.
    """
    rows = await tx.execute(
        text(
            """
            UPDATE jobs SET
                poll_hinted_at = CASE WHEN asked.again_at <= asked.now THEN asked.now ELSE poll_hinted_at END,
                poll_at = CASE WHEN upstream_id IS NOT NULL
                    THEN least(poll_at, greatest(asked.again_at, asked.now)) END
            FROM (
                SELECT id, moment.now, coalesce(poll_hinted_at + CAST(:every AS interval), moment.now) AS again_at
                FROM jobs, (SELECT CAST(:now AS timestamptz) AS now) AS moment
                WHERE id = ANY(CAST(:ids AS uuid[])) AND completed_at IS NULL
            ) AS asked
            WHERE jobs.id = asked.id
            RETURNING jobs.id, asked.again_at <= asked.now AS moved
            """
        ),
        {"ids": job_ids, "now": now, "every": at_most_every},
    )
    return {row.id for row in rows if row.moved}
