"""SQL of reading: one job by id, what the job object is made of, and the models in use."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow
from app.statements import Statement

JOB_COLUMNS: Final = """id, operation, model, status, progress, error, error_code, credit_cost, created_at, completed_at,
    retry_of, upstream_account, CAST(result AS text), CAST(input AS text), CAST(metadata AS text),
    CASE WHEN callback IS NOT NULL THEN coalesce((
        SELECT CASE told WHEN 'delivered' THEN told WHEN 'pending' THEN told ELSE 'failed' END
        FROM (SELECT job_id AS told_of, status AS told, id AS told_by, event_type, callback_url FROM deliveries) AS callbacks
        WHERE told_of = id AND callback_url IS NOT NULL AND event_type <> 'job.progress' ORDER BY told_by DESC LIMIT 1
    ), 'pending') END AS webhook_status,
    CASE WHEN status = 'COMPLETED' THEN (
        SELECT CAST(jsonb_agg(jsonb_build_object(
            'id', file_id, 'status', file_status, 'reason', reason, 'source', source, 'thumbnail', thumbnail,
            'contentType', content_type, 'bytes', byte_count, 'sha256', encode(sha256, 'hex'), 'width', width,
            'height', height
        ) ORDER BY position) AS text)
        FROM (
            SELECT job_id AS kept_of, id AS file_id, status AS file_status, reason, source, thumbnail, content_type,
                byte_count, sha256, width, height, position
            FROM files
        ) AS kept WHERE kept_of = id
    ) END AS files"""
"""What the job object is made of. JSON columns come as text. The job's table may go by any name, so `id` stands alone."""

ANNOUNCED_COLUMNS: Final = f"{JOB_COLUMNS}, team_id, key_id, callback, refusal IS NOT NULL AS is_refused"
"""What subscribers are told of, and by which rules."""

OVERDUE: Final = "overdue_at <= :now AND completed_at IS NULL"
"""Which jobs take longer than they should; the first half is what the index on them needs."""

_FIND: Final = Statement(
    f"""
    SELECT {JOB_COLUMNS}, team_id FROM jobs WHERE id = ANY(CAST(:ids AS uuid[]))
    """  # noqa: S608 - the only part put in is a constant of ours
)


async def find_jobs(connection: AsyncConnection, job_ids: Collection[UUID]) -> dict[UUID, AnyRow]:
    """Those of these jobs that there are, of whichever team."""
    return {row.id: row for row in await _FIND.fetch(connection, {"ids": list(job_ids)})}


_MODELS: Final = Statement(
    """
    SELECT DISTINCT found.model
    FROM teams CROSS JOIN LATERAL (
        WITH RECURSIVE used AS (
            (SELECT model FROM jobs WHERE team_id = teams.id ORDER BY model LIMIT 1)
            UNION ALL
            SELECT (SELECT model FROM jobs WHERE team_id = teams.id AND model > used.model ORDER BY model LIMIT 1)
            FROM used WHERE used.model IS NOT NULL
        )
        SELECT model FROM used WHERE model IS NOT NULL
    ) AS found
    WHERE CAST(:team_id AS uuid) IS NULL OR teams.id = :team_id
    ORDER BY found.model
    """
)


async def list_models(connection: AsyncConnection, team_id: UUID | None) -> list[str]:
    """The models a team has used, or with None all teams: one step through the index for each, however many jobs."""
    return [row.model for row in await _MODELS.fetch(connection, {"team_id": team_id})]
