"""SQL of tallies: add what events say, forget what is old. Nobody writes them but who holds the reader's place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow
from app.ops.histogram import BOUNDS

WIDTHS: Final[Mapping[str, timedelta]] = {
    "minutes": timedelta(minutes=5),
    "hour": timedelta(hours=1),
    "six_hours": timedelta(hours=6),
    "day": timedelta(days=1),
}

KEPT: Final[Mapping[str, timedelta]] = {
    "minutes": timedelta(days=3),
    "hour": timedelta(days=40),
    "six_hours": timedelta(days=40),
}
"""How long tallies of a span are kept, where that is not for ever."""

ENDINGS: Final = ("job.completed", "job.failed", "job.cancelled")
TYPES: Final = ("job.queued", "job.dispatched", *ENDINGS)


async def add_events(tx: AsyncConnection, events: Sequence[AnyRow], now: datetime) -> None:
    """Count these events of `TYPES`, as the log has them. Jobs that are gone are left out."""
    values = {
        "sequences": [event.sequence for event in events],
        "types": [event.type for event in events],
        "ats": [event.at for event in events],
        "job_ids": [event.job_id for event in events],
        "bounds": BOUNDS,
        "now": now,
        "spans": list(WIDTHS),
        "widths": list(WIDTHS.values()),
        "finest": min(WIDTHS.values()),
        "since": [now - KEPT[span] if span in KEPT else None for span in WIDTHS],
    }
    await tx.execute(_ADD, values)


# A job ends twice where our own conclusion yields to the upstream's word. Then the earlier end is found in the log, and what
# it was counted for is taken back. Whose word the end became known by is counted only with the last one, and so is never
# taken back: a job's row tells that of no other. The days only spare the look into the log's other partitions.
_NEWS: Final = f"""
    news AS (
        SELECT new.sequence, new.type, new.at, job.id, job.team_id, job.operation, job.model, job.created_at,
            job.accepted_at, job.completed_at, job.credit_cost, job.ended_by, job.concluded_by,
            team.test_of IS NULL AS is_live
        FROM unnest(
            CAST(:sequences AS bigint[]), CAST(:types AS text[]), CAST(:ats AS timestamptz[]), CAST(:job_ids AS uuid[])
        ) AS new (sequence, type, at, job_id)
        JOIN jobs job ON job.id = new.job_id JOIN teams team ON team.id = job.team_id
    ), ends AS (
        SELECT news.*, earlier_types[1] AS earlier_type, earlier_ats[1] AS earlier_at,
            concluded_by = 'upstream' AND NOT coalesce(is_followed, false) AS is_last
        FROM news CROSS JOIN LATERAL (
            SELECT array_agg(event.type ORDER BY event.sequence DESC) FILTER (WHERE event.sequence < news.sequence),
                array_agg(event.at ORDER BY event.sequence DESC) FILTER (WHERE event.sequence < news.sequence),
                bool_or(event.sequence > news.sequence)
            FROM events event
            WHERE event.job_id = news.id AND event.type IN {ENDINGS}
                AND event.at >= news.created_at - interval '1 day'
                AND event.at < CAST(:now AS timestamptz) + interval '1 day'
        ) AS others (earlier_types, earlier_ats, is_followed)
        WHERE news.type IN {ENDINGS}
    ), spans AS (
        SELECT * FROM unnest(CAST(:spans AS text[]), CAST(:widths AS interval[]), CAST(:since AS timestamptz[]))
            AS span (name, width, since)
    )"""  # noqa: S608 - the only part put in is a constant of ours

_BEGINS_AT: Final = "date_bin(spans.width, at, timestamptz '2000-01-01 00:00:00+00')"
_FINEST: Final = "date_bin(CAST(:finest AS interval), at, timestamptz '2000-01-01 00:00:00+00')"
"""Within it all spans begin alike, since each is a multiple of it: what happens together is counted before it is spread."""

_IS_KEPT: Final = f"(spans.since IS NULL OR {_BEGINS_AT} >= spans.since)"
"""What is not kept any more is not begun again: an earlier end could be taken back from nothing there."""

_TALLY: Final = f"""
    counts AS (
        SELECT created_at AS at, team_id, operation, model, 1 AS submitted, 0 AS completed, 0 AS failed, 0 AS cancelled,
            0 AS by_webhook, 0 AS by_poll, 0 AS credits
        FROM news WHERE type = 'job.queued'
        UNION ALL
        SELECT at, team_id, operation, model, 0, CAST(type = 'job.completed' AS int), CAST(type = 'job.failed' AS int),
            CAST(type = 'job.cancelled' AS int), CAST(is_last AND ended_by IS NOT DISTINCT FROM 'webhook' AS int),
            CAST(is_last AND ended_by IS NOT DISTINCT FROM 'poll' AS int),
            CASE WHEN type = 'job.completed' THEN coalesce(credit_cost, 0) ELSE 0 END
        FROM ends
        UNION ALL
        SELECT earlier_at, team_id, operation, model, 0, -CAST(earlier_type = 'job.completed' AS int),
            -CAST(earlier_type = 'job.failed' AS int), -CAST(earlier_type = 'job.cancelled' AS int), 0, 0, 0
        FROM ends WHERE earlier_at IS NOT NULL
    ), sums AS (
        SELECT {_FINEST} AS at, team_id, operation, model, sum(submitted) AS submitted, sum(completed) AS completed,
            sum(failed) AS failed, sum(cancelled) AS cancelled, sum(by_webhook) AS by_webhook, sum(by_poll) AS by_poll,
            sum(credits) AS credits
        FROM counts GROUP BY 1, 2, 3, 4
    ), tallied AS (
        INSERT INTO tallies AS kept (span, begins_at, team_id, operation, model, submitted, completed, failed, cancelled,
            by_webhook, by_poll, credits)
        SELECT spans.name, {_BEGINS_AT}, team_id, operation, model, sum(submitted), sum(completed), sum(failed),
            sum(cancelled), sum(by_webhook), sum(by_poll), sum(credits)
        FROM sums CROSS JOIN spans
        WHERE {_IS_KEPT}
        GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
        ON CONFLICT (span, begins_at, team_id, operation, model) DO UPDATE SET
            submitted = kept.submitted + excluded.submitted, completed = kept.completed + excluded.completed,
            failed = kept.failed + excluded.failed, cancelled = kept.cancelled + excluded.cancelled,
            by_webhook = kept.by_webhook + excluded.by_webhook, by_poll = kept.by_poll + excluded.by_poll,
            credits = kept.credits + excluded.credits
    )"""  # noqa: S608 - the parts put in are constants of ours

# The upstream's clock may be ahead of ours, or behind: no duration is below nothing.
_ADD: Final = text(
    f"""
    WITH {_NEWS}, {_TALLY}, samples AS (
        SELECT at, team_id, is_live, 'queue' AS kind, model, accepted_at - created_at AS took
        FROM news WHERE type = 'job.dispatched' AND accepted_at IS NOT NULL
        UNION ALL
        SELECT at, team_id, is_live, 'generation', model, completed_at - accepted_at
        FROM ends WHERE type = 'job.completed' AND accepted_at IS NOT NULL
        UNION ALL
        SELECT at, team_id, is_live, 'webhook', model, at - completed_at
        FROM ends WHERE is_last AND ended_by = 'webhook'
    ), buckets AS (
        SELECT {_FINEST} AS at, team_id, is_live, kind, model,
            width_bucket(greatest(CAST(extract(epoch FROM took) AS float8), 0), CAST(:bounds AS float8[])) AS bucket,
            count(*) AS job_count
        FROM samples GROUP BY 1, 2, 3, 4, 5, 6
    )
    INSERT INTO timings AS kept (span, begins_at, team_id, kind, model, bucket, job_count)
    SELECT spans.name, {_BEGINS_AT}, whose.team_id, kind, model, bucket, sum(job_count)
    FROM buckets CROSS JOIN spans CROSS JOIN LATERAL (
        SELECT buckets.team_id UNION ALL SELECT CAST('00000000-0000-0000-0000-000000000000' AS uuid) WHERE is_live
    ) AS whose (team_id)
    WHERE {_IS_KEPT}
    GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6
    ON CONFLICT (span, begins_at, team_id, kind, model, bucket) DO UPDATE SET
        job_count = kept.job_count + excluded.job_count
    """  # noqa: S608 - the parts put in are constants of ours
)


async def delete_old(tx: AsyncConnection, span: str, before: datetime, *, limit: int) -> int:
    """Forget the oldest tallies and timings of a span that begin before this time, up to `limit` of each."""
    values = {"span": span, "before": before, "limit": limit}
    return sum([(await tx.execute(statement, values)).rowcount for statement in _DELETE_OLD])


_DELETE_OLD: Final = tuple(
    text(
        f"""
        DELETE FROM {table} WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM {table} WHERE span = :span AND begins_at < :before ORDER BY span, begins_at
            LIMIT :limit FOR UPDATE SKIP LOCKED
        ))
        """  # noqa: S608 - the tables are named here
    )
    for table in ("tallies", "timings")
)
