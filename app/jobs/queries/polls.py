"""SQL of reconcile: whom to ask after, and when."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow
from app.statements import Statement


async def claim_polls(
    tx: AsyncConnection, *, account: str, limit: int, now: datetime, until: datetime, only: UUID | None = None
) -> Sequence[AnyRow]:
    """Take the jobs that are due to be asked after; whoever took them has until `until`, then they are due again.

    With `only`, that one job, due or not.
    """
    return await _CLAIM.fetch(tx, {"account": account, "limit": limit, "now": now, "until": until, "only": only})


_CLAIM: Final = Statement(
    """
    UPDATE jobs SET poll_at = :until, poll_count = poll_count + 1
    WHERE id IN (
        SELECT id FROM jobs
        WHERE upstream_account = :account AND poll_at IS NOT NULL
            AND CASE WHEN CAST(:only AS uuid) IS NULL THEN poll_at <= :now ELSE id = :only END
        ORDER BY poll_at LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    RETURNING id, upstream_id, upstream_key, ambiguous_since, poll_at
    """
)


async def release_polls(tx: AsyncConnection, claims: Sequence[tuple[UUID, datetime]], *, due_at: datetime) -> None:
    """Give back jobs whose question came to nothing, by the ends of their claims, unless somebody moved their poll."""
    await _RELEASE.fetch(
        tx, {"ids": [claim[0] for claim in claims], "untils": [claim[1] for claim in claims], "due_at": due_at}
    )


_RELEASE: Final = Statement(
    """
    WITH locked AS (
        SELECT jobs.id FROM jobs
        JOIN unnest(CAST(:ids AS uuid[]), CAST(:untils AS timestamptz[])) AS claim (id, until)
            ON claim.id = jobs.id AND claim.until = jobs.poll_at
        ORDER BY jobs.id FOR UPDATE OF jobs
    )
    UPDATE jobs SET poll_at = :due_at FROM locked WHERE jobs.id = locked.id
    """
)


async def count_missing(tx: AsyncConnection, job_ids: Sequence[UUID], *, now: datetime, due_at: datetime) -> None:
    """Write down that the upstream said, under the key that sent these locked jobs, that it has no such job."""
    await tx.execute(
        text(
            """
            UPDATE jobs SET missing_count = missing_count + 1, missing_since = coalesce(missing_since, :now),
                poll_at = CASE WHEN poll_at IS NOT NULL THEN CAST(:due_at AS timestamptz) END
            WHERE id = ANY(CAST(:ids AS uuid[]))
            """
        ),
        {"ids": job_ids, "now": now, "due_at": due_at},
    )


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
