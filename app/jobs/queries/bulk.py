"""SQL of what is done to many jobs at once: what decides whether it can be done to each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow


async def list_fates(connection: AsyncConnection, team_id: UUID | None, ids: Sequence[UUID]) -> dict[UUID, AnyRow]:
    """How far these jobs of this team, or with None of any, have come, by their ids; unknown ones are left out."""
    return {row.id: row for row in await connection.execute(_LIST_FATES, {"ids": list(ids), "team_id": team_id})}


_LIST_FATES: Final = text(
    """
    SELECT id, team_id, status, upstream_account, completed_at IS NOT NULL AS is_over, upstream_id IS NOT NULL AS is_known,
        ambiguous_since IS NOT NULL AS is_sent,
        EXISTS (SELECT 1 FROM jobs AS again WHERE again.retry_of = jobs.id) AS is_retried
    FROM jobs
    WHERE id = ANY(CAST(:ids AS uuid[])) AND (CAST(:team_id AS uuid) IS NULL OR team_id = :team_id)
    """
)
