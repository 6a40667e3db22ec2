"""SQL of reading: one job by id, and the history by keyset over (created_at, id)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow
from app.paging import Cursor

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

_FIND: Final = text(
    f"""
    SELECT {JOB_COLUMNS} FROM jobs
    WHERE id = :id AND (CAST(:team_id AS uuid) IS NULL OR team_id = :team_id)
    """  # noqa: S608 - the only part put in is a constant of ours
)


async def find_job(connection: AsyncConnection, team_id: UUID | None, job_id: UUID) -> AnyRow | None:
    """A job of this team, or with None of any team; None if there is no such job."""
    return (await connection.execute(_FIND, {"id": job_id, "team_id": team_id})).one_or_none()


async def list_jobs(
    connection: AsyncConnection,
    *,
    team_id: UUID | None,
    equal: Mapping[str, object],
    search: UUID | None = None,
    overdue_at: datetime | None = None,
    after: Cursor | None = None,
    limit: int,
) -> Sequence[AnyRow]:
    """The jobs of a team, or with None of all teams, newest first, after the cursor; only those that match.

    `equal` holds columns and the values that they must have, None for any value. `search` is an id in either world:
    ours or the upstream's. `overdue_at` leaves those that were overdue at that time.
    """
    wanted = {column: value for column, value in equal.items() if value is not None}
    parameters: dict[str, Any] = wanted | {"limit": limit}
    conditions = ["team_id = teams.id" if team_id is None else "team_id = :team_id"]
    conditions += [f"{column} = :{column}" for column in wanted]
    if team_id is not None:
        parameters["team_id"] = team_id
    if search is not None:
        conditions.append("(id = :search OR upstream_id = :search_text)")
        parameters |= {"search": search, "search_text": str(search)}
    if overdue_at is not None:
        conditions.append(OVERDUE)
        parameters["now"] = overdue_at
    if after is not None:
        conditions.append("(created_at, id) < (:after_time, :after_id)")
        parameters |= {"after_time": after.created_at, "after_id": after.id}
    return (await connection.execute(text(_page(conditions, all_teams=team_id is None)), parameters)).all()


def _page(conditions: Sequence[str], *, all_teams: bool) -> str:
    """The statement for a page. That of all teams is merged from one page of each, by the index on a team's history."""
    order = "ORDER BY page.created_at DESC, page.id DESC LIMIT :limit"
    page = f"SELECT * FROM jobs AS page WHERE {' AND '.join(conditions)} {order}"  # noqa: S608 - all parts are ours
    if all_teams:
        page = f"SELECT page.* FROM teams CROSS JOIN LATERAL ({page}) AS page WHERE test_of IS NULL {order}"  # noqa: S608
    return f"SELECT {JOB_COLUMNS} FROM ({page}) AS page {order}"  # noqa: S608


_MODELS: Final = text(
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
    return [row.model for row in await connection.execute(_MODELS, {"team_id": team_id})]
