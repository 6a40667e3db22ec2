"""SQL of what became of deliveries, and of making them again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.clock import first_id
from app.db import AnyRow

DELIVERY: Final = """d.id, d.event_id, d.event_type, d.event_at, d.team_id, d.job_id, d.subscription_id, d.callback_url,
    d.created_at, d.status, d.reason, d.ended_at, d.due_at, d.attempt_count, d.lease_token IS NOT NULL AS is_leased"""

_OF_TEAM: Final = "(CAST(:team_id AS uuid) IS NULL OR d.team_id = :team_id)"


async def list_deliveries(
    connection: AsyncConnection,
    *,
    team_id: UUID | None,
    subscription_id: UUID | None = None,
    status: str | None = None,
    before: UUID | None,
    limit: int,
) -> Sequence[AnyRow]:
    """Deliveries, newest first, older than the one that `before` names. None stands for any."""
    conditions = {
        "team_id": ("d.team_id = :team_id", team_id),
        "subscription_id": ("d.subscription_id = :subscription_id", subscription_id),
        "status": ("d.status = :status", status),
        "before": ("d.id < :before", before),
    }
    wanted = {name: entry for name, entry in conditions.items() if entry[1] is not None}
    where = " AND ".join(condition for condition, _ in wanted.values()) or "true"
    statement = f"SELECT {DELIVERY} FROM deliveries d WHERE {where} ORDER BY d.id DESC LIMIT :limit"  # noqa: S608
    parameters = {name: value for name, (_, value) in wanted.items()}
    return (await connection.execute(text(statement), parameters | {"limit": limit})).all()


async def find_delivery(connection: AsyncConnection, team_id: UUID | None, delivery_id: UUID) -> AnyRow | None:
    """A delivery of this team, or with None of any."""
    return (await connection.execute(_FIND, {"id": delivery_id, "team_id": team_id})).one_or_none()


_FIND: Final = text(
    f"SELECT {DELIVERY} FROM deliveries d WHERE d.id = :id AND {_OF_TEAM}"  # noqa: S608 - the parts are ours
)


async def list_attempts(connection: AsyncConnection, delivery_id: UUID, *, since: datetime) -> Sequence[AnyRow]:
    """The newest attempts of a delivery, oldest first. `since` only spares the look into partitions of earlier days."""
    rows = await connection.execute(_LIST_ATTEMPTS, {"id": delivery_id, "since": since, "limit": MOST_ATTEMPTS})
    return list(reversed(rows.all()))


_LIST_ATTEMPTS: Final = text(
    """
    SELECT at, number, seconds, status, error, address, request_headers, response_body, next_at
    FROM attempts WHERE delivery_id = :id AND at >= :since ORDER BY at DESC, id DESC LIMIT :limit
    """
)

MOST_ATTEMPTS: Final = 100
"""Of a delivery that was made again and again the newest are shown."""

_AGAIN: Final = """status = 'pending', reason = NULL, ended_at = NULL, due_at = :now, retrying = false,
    attempt_count = 0, lease_token = NULL"""


async def make_due(tx: AsyncConnection, delivery_ids: Sequence[UUID], now: datetime) -> int:
    """Have these deliveries made again, from their first attempt; how many those were. Pending ones stay as they are."""
    done = await tx.execute(
        text(
            f"""
            WITH ended AS (
                SELECT id FROM deliveries WHERE id = ANY(CAST(:ids AS uuid[])) AND due_at IS NULL ORDER BY id FOR UPDATE
            )
            UPDATE deliveries SET {_AGAIN} FROM ended WHERE deliveries.id = ended.id
            """  # noqa: S608 - the part is ours
        ),
        {"ids": list(delivery_ids), "now": now},
    )
    return done.rowcount


async def lock_repeatable(tx: AsyncConnection, delivery_ids: Sequence[UUID]) -> Sequence[AnyRow]:
    """Lock those of these deliveries, in order of id, that are over and whose subscription, if any, can be told."""
    return (await tx.execute(_LOCK_REPEATABLE, {"ids": list(delivery_ids)})).all()


_LOCK_REPEATABLE: Final = text(
    """
    SELECT d.id, d.team_id FROM deliveries d LEFT JOIN subscriptions s ON s.id = d.subscription_id
    WHERE d.id = ANY(CAST(:ids AS uuid[])) AND d.due_at IS NULL
        AND (d.subscription_id IS NULL OR (s.deleted_at IS NULL AND s.disabled_at IS NULL))
    ORDER BY d.id FOR UPDATE OF d
    """
)


@dataclass(frozen=True, slots=True)
class Span:
    """When events happened: from a time on, and before another; None is open."""

    begins_at: datetime | None
    ends_at: datetime | None


_UNDELIVERED: Final = """FROM deliveries
    WHERE subscription_id = :subscription_id AND status = 'undelivered'
        AND (CAST(:after AS uuid) IS NULL OR id > :after)
        AND (CAST(:begins_at AS timestamptz) IS NULL OR event_at >= :begins_at)
        AND (CAST(:ends_at AS timestamptz) IS NULL OR event_at < :ends_at)
    ORDER BY id LIMIT :limit"""


async def count_undelivered(connection: AsyncConnection, subscription_id: UUID, span: Span, *, limit: int) -> int:
    """How many deliveries of a subscription ended without success, of events between two times; up to a limit."""
    statement = text(f"SELECT count(*) FROM (SELECT 1 {_UNDELIVERED}) AS few")  # noqa: S608 - the part is ours
    return int(await connection.scalar(statement, _undelivered(subscription_id, span, None, limit)) or 0)


async def list_undelivered(
    connection: AsyncConnection, subscription_id: UUID, span: Span, *, after: UUID | None, limit: int
) -> list[UUID]:
    """Deliveries of a subscription that ended without success, oldest first, of events between two times."""
    statement = text(f"SELECT id {_UNDELIVERED}")
    rows = await connection.execute(statement, _undelivered(subscription_id, span, after, limit))
    return [row.id for row in rows]


def _undelivered(subscription_id: UUID, span: Span, after: UUID | None, limit: int) -> dict[str, Any]:
    between = {"begins_at": span.begins_at, "ends_at": span.ends_at}
    return {"subscription_id": subscription_id, "after": after, "limit": limit, **between}


async def measure_matching(
    connection: AsyncConnection, subscription: AnyRow, span: Span, *, limit: int
) -> tuple[int, int]:
    """How many events a subscription wants, up to a limit, and the number of the first; 0 where there is none."""
    statement = text(f"SELECT count(*) AS n, min(sequence) AS first FROM (SELECT sequence {_MATCHING}) AS few")  # noqa: S608
    row = (await connection.execute(statement, _matching(subscription, span, 0, limit))).one()
    return row.n, row.first or 0


async def list_matching(
    connection: AsyncConnection, subscription: AnyRow, span: Span, *, after: int, limit: int
) -> Sequence[AnyRow]:
    """Events that a subscription wants, in order: by the same rules as `filters.matches`. Test events are wanted once."""
    statement = text(f"SELECT sequence, id, at, type, job_id {_MATCHING}")
    return (await connection.execute(statement, _matching(subscription, span, after, limit))).all()


def _matching(subscription: AnyRow, span: Span, after: int, limit: int) -> dict[str, Any]:
    return {
        "after": after,
        "begins_at": span.begins_at,
        "ends_at": span.ends_at,
        "types": [pattern.replace("*", "%") for pattern in subscription.types],
        "team_id": None if subscription.all_teams else subscription.team_id,
        "operation": subscription.operation,
        "model": subscription.model,
        "metadata": msgspec.json.encode(subscription.metadata or {}).decode(),
        "limit": limit,
    }


_MATCHING: Final = """FROM events
    WHERE sequence > :after AND type LIKE ANY(CAST(:types AS text[])) AND type <> 'subscription.test'
        AND (CAST(:begins_at AS timestamptz) IS NULL OR at >= :begins_at)
        AND (CAST(:ends_at AS timestamptz) IS NULL OR at < :ends_at)
        AND (CAST(:team_id AS uuid) IS NULL OR team_id = :team_id)
        AND (CAST(:operation AS text) IS NULL OR data ->> 'operation' = :operation)
        AND (CAST(:model AS text) IS NULL OR data ->> 'model' = :model)
        AND (CAST(:metadata AS jsonb) = '{}' OR data -> 'metadata' @> CAST(:metadata AS jsonb))
    ORDER BY sequence LIMIT :limit"""


async def upsert_due(
    tx: AsyncConnection,
    subscription_id: UUID,
    team_id: UUID,
    events: Sequence[AnyRow],
    ids: Sequence[UUID],
    now: datetime,
) -> None:
    """Have events delivered to a subscription, again where they were before. Pending deliveries stay as they are."""
    if not events:
        return
    wanted = {"subscription_id": subscription_id, "event_ids": [event.id for event in events]}
    await tx.execute(_LOCK_KNOWN, wanted)
    await tx.execute(
        _UPSERT_DUE,
        {
            "now": now,
            "subscription_id": subscription_id,
            "ids": list(ids),
            "event_ids": [event.id for event in events],
            "event_ats": [event.at for event in events],
            "event_types": [event.type for event in events],
            "team_id": team_id,
            "job_ids": [event.job_id for event in events],
        },
    )


_LOCK_KNOWN: Final = text(
    """
    SELECT 1 FROM deliveries
    WHERE subscription_id = :subscription_id AND event_id = ANY(CAST(:event_ids AS uuid[])) ORDER BY id FOR UPDATE
    """
)

_UPSERT_DUE: Final = text(
    f"""
    INSERT INTO deliveries (id, event_id, event_at, event_type, team_id, job_id, subscription_id, target, created_at,
        status, due_at)
    SELECT id, event_id, event_at, event_type, CAST(:team_id AS uuid), job_id, CAST(:subscription_id AS uuid),
        CAST(CAST(:subscription_id AS uuid) AS text), :now, 'pending', :now
    FROM unnest(
        CAST(:ids AS uuid[]), CAST(:event_ids AS uuid[]), CAST(:event_ats AS timestamptz[]),
        CAST(:event_types AS text[]), CAST(:job_ids AS uuid[])
    ) AS new (id, event_id, event_at, event_type, job_id)
    ORDER BY event_id
    ON CONFLICT (subscription_id, event_id) WHERE subscription_id IS NOT NULL
    DO UPDATE SET {_AGAIN} WHERE deliveries.due_at IS NULL
    """  # noqa: S608 - the part is ours
)


async def delete_ended(tx: AsyncConnection, before: datetime, *, limit: int) -> int:
    """Forget deliveries that ended, of events of before a time and made before it too; how many those were.

    A job says for ever how its callback fared, so the delivery that tells it stays. Those stay behind at the low end of
    the ids, which is why they are gone through from the other one.
    """
    done = await tx.execute(_DELETE_ENDED, {"before": before, "before_id": first_id(before), "limit": limit})
    return done.rowcount


_ENDED: Final = """FROM deliveries
    WHERE id < :before_id AND event_at < :before AND due_at IS NULL
        AND (subscription_id IS NOT NULL OR event_type = 'job.progress')
    ORDER BY id DESC LIMIT :limit"""

# What is about to be made again is locked or, once that is committed, not over any more: it stays in both cases.
_DELETE_ENDED: Final = text(
    f"""
    WITH ended AS (SELECT id {_ENDED} FOR UPDATE SKIP LOCKED)
    DELETE FROM deliveries USING ended WHERE deliveries.id = ended.id
    """  # noqa: S608 - the part is ours
)


async def count_ended(connection: AsyncConnection, before: datetime, *, limit: int) -> int:
    """How many deliveries `delete_ended` would forget; up to a limit."""
    statement = text(f"SELECT count(*) FROM (SELECT 1 {_ENDED}) AS few")  # noqa: S608 - the part is ours
    values = {"before": before, "before_id": first_id(before), "limit": limit}
    return int(await connection.scalar(statement, values) or 0)
