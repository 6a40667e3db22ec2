"""SQL of statistics: sums of tallies and timings, and a look at what failed last. Nothing reads all jobs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow

ALL: Final = UUID(int=0)
"""In timings: of all teams, but of no tests."""

_SLOTS: Final = "unnest(CAST(:begins AS timestamptz[])) AS slot (begins_at)"


def _values(span: str, slots: Sequence[datetime], team_id: UUID | None) -> dict[str, object]:
    return {"span": span, "begins": list(slots), "team_id": team_id}


async def list_sums(
    connection: AsyncConnection, team_id: UUID | None, span: str, slots: Sequence[datetime], *, limit: int
) -> Sequence[AnyRow]:
    """Counts of these spans by when they begin (`kind` slot), by model, by team and by operation.

    They are those of a team, or with None of all of them but for tests. Of slots only those are told in which there is
    something, of the others up to `limit`, those with the most jobs first.
    """
    values = _values(span, slots, team_id) | {"limit": limit}
    return (await connection.execute(_LIST_SUMS, values)).all()


_COUNTS: Final = ", ".join(
    f"CAST(sum({name}) AS bigint) AS {name}"
    for name in ("submitted", "completed", "failed", "cancelled", "by_webhook", "by_poll", "credits")
)

_LIST_SUMS: Final = text(
    f"""
    WITH sums AS (
        SELECT CASE WHEN grouping(tally.begins_at) = 0 THEN 'slot' WHEN grouping(tally.model) = 0 THEN 'model'
            WHEN grouping(tally.team_id) = 0 THEN 'team' ELSE 'operation' END AS kind,
            tally.begins_at, tally.model, tally.team_id, tally.operation, {_COUNTS}
        FROM {_SLOTS} JOIN tallies tally ON tally.span = :span AND tally.begins_at = slot.begins_at
        WHERE CASE WHEN CAST(:team_id AS uuid) IS NULL
            THEN tally.team_id NOT IN (SELECT id FROM teams WHERE test_of IS NOT NULL)
            ELSE tally.team_id = :team_id END
        GROUP BY GROUPING SETS ((tally.begins_at), (tally.model), (tally.team_id), (tally.operation))
    ), ranked AS (
        SELECT sums.*, submitted + completed + failed + cancelled AS weight, row_number() OVER (
            PARTITION BY kind
            ORDER BY submitted + completed + failed + cancelled DESC, begins_at, model, operation, team_id
        ) AS place
        FROM sums
    )
    SELECT coalesce(model, operation, team.name) AS name, ranked.*
    FROM ranked LEFT JOIN teams team ON team.id = ranked.team_id
    WHERE kind = 'slot' OR (place <= :limit AND weight > 0) ORDER BY kind, place
    """  # noqa: S608 - the parts put in are constants of ours
)


async def list_timings(
    connection: AsyncConnection, team_id: UUID | None, span: str, slots: Sequence[datetime]
) -> Sequence[AnyRow]:
    """How many jobs are in each bucket (kind, model, bucket, job_count) in these spans, of a team or with None of all."""
    return (await connection.execute(_LIST_TIMINGS, _values(span, slots, team_id or ALL))).all()


_LIST_TIMINGS: Final = text(
    f"""
    SELECT kind, model, bucket, CAST(sum(job_count) AS bigint) AS job_count
    FROM {_SLOTS} JOIN timings timing ON timing.span = :span AND timing.begins_at = slot.begins_at
    WHERE timing.team_id = :team_id
    GROUP BY kind, model, bucket
    """  # noqa: S608 - the only part put in is a constant of ours
)


async def list_failures(connection: AsyncConnection, *, limit: int) -> Sequence[AnyRow]:
    """The last jobs that failed, by when they were submitted, the newest first, of all teams; tests left out."""
    return (await connection.execute(_LIST_FAILURES, {"limit": limit})).all()


# The status is a constant, so that the index of what did not succeed is known to do, whatever is asked for.
_LIST_FAILURES: Final = text(
    """
    SELECT teams.name AS team, job.*
    FROM teams CROSS JOIN LATERAL (
        SELECT id, operation, model, error, coalesce(error_code, '') AS error_code, created_at, completed_at FROM jobs
        WHERE team_id = teams.id AND status = 'FAILED'
        ORDER BY created_at DESC, id DESC LIMIT :limit
    ) AS job
    WHERE teams.test_of IS NULL
    ORDER BY job.created_at DESC, job.id DESC LIMIT :limit
    """
)
