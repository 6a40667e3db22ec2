"""SQL of the stage and of looking up what was acknowledged. The reference's own is in `reference/`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.bench.payloads import INPUT, METADATA, MODEL, OPERATION
from app.db import AnyRow


async def insert_waiting_jobs(
    tx: AsyncConnection,
    *,
    ids: Sequence[UUID],
    upstream_ids: Sequence[str],
    team_id: UUID,
    key_id: UUID,
    account: str,
    upstream_key: str,
) -> None:
    """Insert jobs as dispatch and the upstream's acceptance leave them, so that only their webhook is missing."""
    await tx.execute(
        _INSERT_WAITING,
        {
            "ids": ids,
            "upstream_ids": upstream_ids,
            "team_id": team_id,
            "key_id": key_id,
            "account": account,
            "upstream_key": upstream_key,
            "operation": OPERATION,
            "model": MODEL,
            "input": msgspec.json.encode(INPUT).decode(),
            "wire_body": msgspec.json.encode(INPUT),
            "metadata": msgspec.json.encode(METADATA).decode(),
        },
    )


# Nothing is due within the run: neither a poll nor the note that a job takes long.
_INSERT_WAITING: Final = text(
    """
    INSERT INTO jobs (id, team_id, key_id, created_at, updated_at, operation, model, input, metadata, idempotency_key,
        status, upstream_account, upstream_id, upstream_key, accepted_at, wire_body, wire_key, wire_webhook,
        ambiguous_since, ambiguous_by, dispatch_count, poll_at, overdue_at)
    SELECT id, :team_id, :key_id, now(), now(), :operation, :model, CAST(:input AS jsonb), CAST(:metadata AS jsonb),
        CAST(id AS text), 'PROCESSING', :account, upstream_id, :upstream_key, now(), CAST(:wire_body AS bytea),
        CAST(id AS text), 'webhookUrl', now(), gen_random_uuid(), 1, now() + interval '1 day', now() + interval '1 day'
    FROM unnest(CAST(:ids AS uuid[]), CAST(:upstream_ids AS text[])) AS new (id, upstream_id)
    """
)


async def checkpoint(connection: AsyncConnection) -> None:
    """Write out what is dirty."""
    await connection.execute(text("CHECKPOINT"))


async def analyze(connection: AsyncConnection) -> None:
    """Renew what the planner knows of the tables that a run fills."""
    await connection.execute(text("ANALYZE jobs, idempotency_keys, receipts, events, deliveries"))


async def list_waiting(connection: AsyncConnection, job_ids: Sequence[UUID]) -> list[UUID]:
    """Those of these jobs that are not over."""
    statement = text("SELECT id FROM jobs WHERE id = ANY(CAST(:ids AS uuid[])) AND completed_at IS NULL")
    return [row.id for row in await connection.execute(statement, {"ids": job_ids})]


async def list_webhooks_not_applied_once(connection: AsyncConnection, job_ids: Sequence[UUID]) -> Sequence[AnyRow]:
    """Those of these jobs that are not completed with one applied receipt, one event of it, and one delivery of that."""
    return (await connection.execute(_LIST_NOT_APPLIED_ONCE, {"ids": job_ids})).all()


_LIST_NOT_APPLIED_ONCE: Final = text(
    """
    WITH asked AS (
        SELECT DISTINCT unnest(CAST(:ids AS uuid[])) AS id
    ), received AS (
        SELECT job_id, count(*) AS count FROM receipts JOIN asked ON asked.id = job_id WHERE applied GROUP BY job_id
    ), told AS (
        SELECT job_id, count(*) AS count FROM events JOIN asked ON asked.id = job_id
        WHERE type = 'job.completed' GROUP BY job_id
    ), due AS (
        SELECT job_id, count(*) AS count FROM deliveries JOIN asked ON asked.id = job_id
        WHERE event_type = 'job.completed' GROUP BY job_id
    )
    SELECT asked.id, jobs.status, coalesce(received.count, 0) AS receipts, coalesce(told.count, 0) AS events,
        coalesce(due.count, 0) AS deliveries
    FROM asked LEFT JOIN jobs ON jobs.id = asked.id LEFT JOIN received ON received.job_id = asked.id
    LEFT JOIN told ON told.job_id = asked.id LEFT JOIN due ON due.job_id = asked.id
    WHERE (jobs.status, received.count, told.count, due.count) IS DISTINCT FROM ('COMPLETED', 1, 1, 1)
    ORDER BY asked.id
    """
)


async def list_submissions_not_kept_once(
    connection: AsyncConnection, team_id: UUID, keys: Sequence[str]
) -> Sequence[AnyRow]:
    """Those of these idempotency keys that do not stand for one job, which is the only one made under them."""
    return (await connection.execute(_LIST_NOT_KEPT_ONCE, {"keys": keys, "team_id": team_id})).all()


_LIST_NOT_KEPT_ONCE: Final = text(
    """
    WITH asked AS (
        SELECT DISTINCT unnest(CAST(:keys AS text[])) AS key
    ), made AS (
        SELECT idempotency_key AS key, count(*) AS count, min(CAST(id AS text)) AS id FROM jobs
        JOIN asked ON asked.key = idempotency_key WHERE team_id = :team_id GROUP BY idempotency_key
    ), told AS (
        SELECT made.key, count(*) AS count FROM made JOIN events ON events.job_id = CAST(made.id AS uuid)
        WHERE events.type = 'job.queued' GROUP BY made.key
    )
    SELECT asked.key, coalesce(made.count, 0) AS jobs, coalesce(told.count, 0) AS events,
        k.job_id IS NOT DISTINCT FROM CAST(made.id AS uuid) AS is_held
    FROM asked LEFT JOIN made ON made.key = asked.key LEFT JOIN told ON told.key = asked.key
    LEFT JOIN idempotency_keys k ON k.team_id = :team_id AND k.key = asked.key
    WHERE (made.count, told.count, CAST(k.job_id AS text)) IS DISTINCT FROM (1, 1, made.id)
    ORDER BY asked.key
    """
)


async def list_tables(connection: AsyncConnection) -> Sequence[AnyRow]:
    """Every table: its name, its bytes with its indexes, and about how many rows it has. Partitions are their table."""
    return (await connection.execute(_LIST_TABLES)).all()


_LIST_TABLES: Final = text(
    """
    SELECT coalesce(parent.relname, c.relname) AS name, CAST(sum(pg_total_relation_size(c.oid)) AS bigint) AS bytes,
        CAST(sum(s.n_live_tup) AS bigint) AS row_count
    FROM pg_class c JOIN pg_stat_user_tables s ON s.relid = c.oid
    LEFT JOIN pg_inherits i ON i.inhrelid = c.oid LEFT JOIN pg_class parent ON parent.oid = i.inhparent
    WHERE c.relkind = 'r' AND s.schemaname = 'public' GROUP BY 1 ORDER BY 1
    """
)


async def list_completions(connection: AsyncConnection, team_id: UUID) -> Sequence[AnyRow]:
    """The events that jobs of a team completed, in the order of the log: their ids, numbers, and jobs."""
    statement = text(
        """
        SELECT id, sequence, job_id FROM events WHERE team_id = :team_id AND type = 'job.completed' ORDER BY sequence
        """
    )
    return (await connection.execute(statement, {"team_id": team_id})).all()


async def count_deliveries(connection: AsyncConnection, team_id: UUID, *, status: str | None = None) -> int:
    """How many deliveries a team has, of a status or of any."""
    statement = text(
        """
        SELECT count(*) FROM deliveries
        WHERE team_id = :team_id AND (CAST(:status AS text) IS NULL OR status = CAST(:status AS text))
        """
    )
    return int(await connection.scalar(statement, {"team_id": team_id, "status": status}) or 0)


async def list_deliveries_not_made_once(connection: AsyncConnection, team_id: UUID) -> Sequence[AnyRow]:
    """Those of a team's deliveries that are not recorded as made by one attempt, the only one there is."""
    return (await connection.execute(_LIST_NOT_MADE_ONCE, {"team_id": team_id})).all()


_LIST_NOT_MADE_ONCE: Final = text(
    """
    WITH tried AS (
        SELECT delivery_id, count(*) AS count, min(status) AS status FROM attempts GROUP BY delivery_id
    )
    SELECT deliveries.id, deliveries.status, coalesce(tried.count, 0) AS attempts
    FROM deliveries LEFT JOIN tried ON tried.delivery_id = deliveries.id
    WHERE team_id = :team_id
        AND (deliveries.status, attempt_count, tried.count, tried.status) IS DISTINCT FROM ('delivered', 1, 1, 204)
    """
)
