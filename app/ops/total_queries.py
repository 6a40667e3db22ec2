"""SQL of totals: add what events say, and read them. Their rows are written by whoever holds the reader's place."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow

STATUSES: Final = {"job.completed": "COMPLETED", "job.failed": "FAILED", "job.cancelled": "CANCELLED"}
TYPES: Final = ("job.queued", "job.dispatched", *STATUSES)

BOUNDS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 7200.0)
"""In seconds, of the histograms of how long jobs took. What is kept is numbered by them: never change one."""


async def add_events(tx: AsyncConnection, events: Sequence[AnyRow], now: datetime) -> None:
    """Count these events of `TYPES`, as the log has them. Jobs that are gone are left out."""
    values = {
        "types": [event.type for event in events],
        "ats": [event.at for event in events],
        "job_ids": [event.job_id for event in events],
        "ends": list(STATUSES),
        "statuses": list(STATUSES.values()),
        "bounds": BOUNDS,
        "now": now,
    }
    await tx.execute(_ADD, values)


# Test keys' jobs are counted by team and model only: they end when their sandbox is asked, and say nothing of the upstream.
# The upstream's clock may be ahead of ours, or behind: no duration is below nothing.
_ADD: Final = text(
    """
    WITH news AS (
        SELECT new.type, new.at, job.team_id, job.model, job.created_at, job.accepted_at, job.completed_at,
            coalesce(job.ended_by, 'framehook') AS ended_by, ending.status, team.test_of IS NULL AS is_live
        FROM unnest(
            CAST(:types AS text[]), CAST(:ats AS timestamptz[]), CAST(:job_ids AS uuid[])
        ) AS new (type, at, job_id)
        JOIN jobs job ON job.id = new.job_id JOIN teams team ON team.id = job.team_id
        LEFT JOIN unnest(CAST(:ends AS text[]), CAST(:statuses AS text[])) AS ending (type, status)
            ON ending.type = new.type
    ), took AS (
        SELECT kind, greatest(CAST(extract(epoch FROM duration) AS float8), 0) AS seconds
        FROM news CROSS JOIN LATERAL (
            VALUES ('queue', CASE WHEN type = 'job.dispatched' THEN accepted_at - created_at END),
                ('generation', CASE WHEN status = 'COMPLETED' THEN completed_at - accepted_at END),
                ('webhook', CASE WHEN status IS NOT NULL AND ended_by = 'webhook' THEN at - completed_at END)
        ) AS each (kind, duration)
        WHERE is_live AND duration IS NOT NULL
    ), counts (name, team_id, model, detail, amount) AS (
        SELECT 'submitted', team_id, model, '', 1 FROM news WHERE type = 'job.queued'
        UNION ALL
        SELECT 'ended', team_id, model, status, 1 FROM news WHERE status IS NOT NULL
        UNION ALL
        SELECT 'ended_by', CAST(NULL AS uuid), '', ended_by, 1 FROM news WHERE status IS NOT NULL AND is_live
        UNION ALL
        SELECT kind, NULL, '', CAST(width_bucket(seconds, CAST(:bounds AS float8[])) AS text), 1 FROM took
        UNION ALL
        SELECT kind, NULL, '', 'milliseconds', CAST(1000 * seconds AS bigint) FROM took
    )
    INSERT INTO totals AS kept (name, team_id, model, detail, amount, since)
    SELECT name, coalesce(team_id, CAST('00000000-0000-0000-0000-000000000000' AS uuid)), model, detail, sum(amount), :now
    FROM counts
    GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
    ON CONFLICT (name, team_id, model, detail) DO UPDATE SET amount = kept.amount + excluded.amount
    """
)


async def list_totals_of_teams(connection: AsyncConnection, name: str, *, limit: int) -> Sequence[AnyRow]:
    """(status, model, team, amount) of `submitted` or `ended`: the first ones apart that there ever were, up to `limit`
    rows in all, and the rest under `other`.

    Which ones are apart stays so for ever, so that no sum grows less.
    """
    apart = limit - len(STATUSES)
    return (await connection.execute(_LIST_OF_TEAMS, {"name": name, "apart": apart})).all()


_LIST_OF_TEAMS: Final = text(
    """
    SELECT detail AS status, CASE WHEN is_apart THEN ranked.model ELSE 'other' END AS model,
        CASE WHEN is_apart THEN coalesce(teams.name, 'gone') ELSE 'other' END AS team, sum(amount) AS amount
    FROM (
        SELECT team_id, model, detail, amount,
            row_number() OVER (ORDER BY since, team_id, model, detail) <= :apart AS is_apart
        FROM totals WHERE name = :name
    ) AS ranked LEFT JOIN teams ON teams.id = team_id
    GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    """
)


async def list_totals(connection: AsyncConnection, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """The totals of all teams, by name and detail."""
    found: dict[str, dict[str, int]] = {name: {} for name in names}
    for row in await connection.execute(_LIST, {"names": list(names)}):
        found[row.name][row.detail] = row.amount
    return found


_LIST: Final = text(
    "SELECT name, detail, amount FROM totals"
    " WHERE name = ANY(CAST(:names AS text[])) AND team_id = '00000000-0000-0000-0000-000000000000' AND model = ''"
)
