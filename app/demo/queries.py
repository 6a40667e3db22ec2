"""SQL of the demo: the jobs of this run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow


async def list_jobs(connection: AsyncConnection, account: str, *, first: UUID, limit: int) -> Sequence[AnyRow]:
    """Jobs for this upstream account with ids from `first` on, the newest first."""
    values = {"account": account, "first": first, "limit": limit}
    return (await connection.execute(_LIST_JOBS, values)).all()


_LIST_JOBS: Final = text(
    """
    SELECT id, status, upstream_id, ambiguous_since IS NOT NULL AS sent, ended_by, concluded_by,
        refusal IS NOT NULL AS refused, coalesce(strpos(CAST(result AS text), upstream_id) > 0, false) AS shows_result
    FROM jobs WHERE id >= :first AND upstream_account = :account ORDER BY id DESC LIMIT :limit
    """
)
