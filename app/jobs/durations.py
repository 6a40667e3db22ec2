"""How long each model takes, by those of its jobs that completed last; and the jobs that take longer, told of once."""

from __future__ import annotations

from typing import Final

import structlog
from sqlalchemy import text

from app.context import Context
from app.jobs.queries import expiry
from app.models.jobs import DURATION_IS_KNOWN

log = structlog.get_logger()

SAMPLES: Final = 500
LEAST_SAMPLES: Final = 20
"""With fewer, a percentile says nothing: the modality's defaults are used."""

TOLD_AT_ONCE: Final = 100


async def refresh_once(ctx: Context) -> int:
    """Measure anew the models that had a job complete since they were measured. Always returns 0."""
    async with ctx.db.transaction() as tx:
        await tx.execute(_MEASURE, {"now": ctx.now(), "samples": SAMPLES, "least": LEAST_SAMPLES})
    return 0


_MEASURE: Final = text(
    f"""
    WITH RECURSIVE models AS (
        (SELECT operation, model FROM jobs WHERE {DURATION_IS_KNOWN} ORDER BY operation, model LIMIT 1)
        UNION ALL
        SELECT next.operation, next.model FROM models CROSS JOIN LATERAL (
            SELECT operation, model FROM jobs
            WHERE {DURATION_IS_KNOWN} AND (operation, model) > (models.operation, models.model)
            ORDER BY operation, model LIMIT 1
        ) AS next
    )
    INSERT INTO model_durations AS d (operation, model, p50_seconds, p95_seconds, p99_seconds, sample_count, updated_at)
    SELECT operation, model, took.p[1], took.p[2], took.p[3], took.count, :now
    FROM models CROSS JOIN LATERAL (
        SELECT count(*) AS count, max(completed_at) AS newest,
            percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY seconds) AS p
        FROM (
            SELECT completed_at, greatest(extract(epoch FROM completed_at - accepted_at), 0)::float AS seconds FROM jobs
            WHERE {DURATION_IS_KNOWN} AND operation = models.operation AND model = models.model
            ORDER BY completed_at DESC LIMIT :samples
        ) AS latest
    ) AS took
    WHERE took.count >= :least
    ON CONFLICT (operation, model) DO UPDATE SET
        p50_seconds = excluded.p50_seconds, p95_seconds = excluded.p95_seconds, p99_seconds = excluded.p99_seconds,
        sample_count = excluded.sample_count, updated_at = excluded.updated_at
    """  # noqa: S608 - the only part put in is a constant of ours
)


async def tell_overdue_once(ctx: Context) -> int:
    """Log jobs that take longer than 99 in 100 of their model, each once, and return how many those were."""
    async with ctx.db.transaction() as tx:
        rows = await expiry.tell_overdue(tx, ctx.now(), limit=TOLD_AT_ONCE)
    for row in rows:
        seconds = round((ctx.now() - row.accepted_at).total_seconds())
        log.warning(
            "job.overdue",
            job=str(row.id),
            team=str(row.team_id),
            model=row.model,
            upstream_id=row.upstream_id,
            seconds=seconds,
        )
    return len(rows)
