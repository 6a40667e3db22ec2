"""SQL of sending: take what is due, and write down what came of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow, recordset
from app.statements import Statement


async def lock_limited(tx: AsyncConnection, *, retrying: bool, now: datetime) -> Sequence[AnyRow]:
    """Lock the subscriptions with a rate limit that something is due to, in order of id."""
    return await _LOCK_LIMITED.fetch(tx, {"retrying": retrying, "now": now})


_LOCK_LIMITED: Final = Statement(
    """
    SELECT id, rate_per_minute, rate_tokens, rate_tokens_at FROM subscriptions
    WHERE rate_per_minute IS NOT NULL AND deleted_at IS NULL AND disabled_at IS NULL AND EXISTS (
        SELECT 1 FROM deliveries
        WHERE target = CAST(subscriptions.id AS text) AND retrying = :retrying AND due_at <= :now
    )
    ORDER BY id FOR NO KEY UPDATE
    """
)


async def write_tokens(tx: AsyncConnection, tokens: Mapping[str, float], now: datetime) -> None:
    """Write down what is left of rate limits. The subscriptions are locked."""
    if not tokens:
        return
    await tx.execute(
        text(
            """
            UPDATE subscriptions SET rate_tokens = new.tokens, rate_tokens_at = :now
            FROM unnest(CAST(:targets AS text[]), CAST(:tokens AS float[])) AS new (target, tokens)
            WHERE subscriptions.id = CAST(new.target AS uuid)
            """
        ),
        {"targets": list(tokens), "tokens": list(tokens.values()), "now": now},
    )


async def lease_due(
    tx: AsyncConnection,
    *,
    retrying: bool,
    places: int,
    places_per_target: int,
    rooms: Mapping[str, int],
    allowed: Mapping[str, int],
    now: datetime,
    until: datetime,
) -> Sequence[AnyRow]:
    """Lease deliveries that are due, and return them as `list_claimed` does. Every target in turn, as long as it has room.

    `rooms` says how many more some targets may have, for all others there are `places_per_target`; `allowed` says how many
    more a target with a rate limit may have, and one that has such a limit and is not named may have none now. `offered`,
    besides, is what a target could have had, by all of this and as its share of `places`.
    """
    parameters = {
        "retrying": retrying,
        "places": places,
        "places_per_target": places_per_target,
        "room_targets": list(rooms),
        "room_counts": list(rooms.values()),
        "allowed_targets": list(allowed),
        "allowed_counts": list(allowed.values()),
        "now": now,
        "until": until,
    }
    return await _LEASE_DUE.fetch(tx, parameters)


_CLAIMED: Final = """d.id AS delivery_id, d.lease_token, d.event_id, d.event_type, d.attempt_count, d.retrying, d.target,
        d.subscription_id, d.team_id, d.job_id, e.id, e.sequence, e.at, e.type, CAST(e.data AS text) AS data,
        coalesce(s.url, d.callback_url) AS url, s.secret, s.previous_secret, s.previous_secret_until, s.headers,
        s.disabled_at IS NOT NULL AS disabled, s.deleted_at IS NOT NULL AS deleted, d.due_at AS leased_until, k.key_hash,
        j.completed_at IS NOT NULL AS job_is_over"""

_CLAIMED_JOINS: Final = """
    LEFT JOIN events e ON e.id = d.event_id AND e.at = d.event_at
    LEFT JOIN subscriptions s ON s.id = d.subscription_id
    LEFT JOIN api_keys k ON k.id = d.callback_key_id
    LEFT JOIN jobs j ON j.id = d.job_id AND d.callback_url IS NOT NULL"""

_LEASE_DUE: Final = Statement(
    f"""
    WITH RECURSIVE waiting AS (
        (SELECT target FROM deliveries WHERE due_at IS NOT NULL AND retrying = :retrying ORDER BY target LIMIT 1)
        UNION ALL
        SELECT (
            SELECT next.target FROM deliveries next
            WHERE next.due_at IS NOT NULL AND next.retrying = :retrying AND next.target > waiting.target
            ORDER BY next.target LIMIT 1
        )
        FROM waiting WHERE waiting.target IS NOT NULL
    ), room AS (
        SELECT waiting.target, least(
            coalesce(known.count, :places_per_target),
            CASE WHEN limited.id IS NOT NULL THEN coalesce(allowed.count, 0) END
        ) AS places
        FROM waiting
        LEFT JOIN unnest(CAST(:room_targets AS text[]), CAST(:room_counts AS integer[])) AS known (target, count)
            ON known.target = waiting.target
        LEFT JOIN unnest(CAST(:allowed_targets AS text[]), CAST(:allowed_counts AS integer[])) AS allowed (target, count)
            ON allowed.target = waiting.target
        LEFT JOIN subscriptions limited
            ON limited.id = CASE WHEN waiting.target NOT LIKE 'callback %' THEN CAST(waiting.target AS uuid) END
            AND limited.rate_per_minute IS NOT NULL
            AND limited.disabled_at IS NULL AND limited.deleted_at IS NULL
        WHERE waiting.target IS NOT NULL
    ), share AS (
        SELECT target, least(places, (:places + count(*) OVER () - 1) / count(*) OVER ()) AS places
        FROM room WHERE places > 0
    ), locked AS (
        SELECT due.id, due.due_at, share.places AS offered,
            row_number() OVER (PARTITION BY share.target ORDER BY due.due_at, due.id) AS turn
        FROM share CROSS JOIN LATERAL (
            SELECT id, due_at FROM deliveries
            WHERE target = share.target AND retrying = :retrying AND due_at <= :now
            ORDER BY due_at LIMIT share.places
            FOR UPDATE SKIP LOCKED
        ) AS due
    ), chosen AS (
        SELECT id, offered FROM locked ORDER BY turn, due_at, id LIMIT :places
    ), leased AS (
        UPDATE deliveries SET lease_token = gen_random_uuid(), due_at = :until
        FROM chosen WHERE deliveries.id = chosen.id
        RETURNING deliveries.*, offered
    )
    SELECT {_CLAIMED}, offered FROM leased d {_CLAIMED_JOINS} ORDER BY d.id
    """  # noqa: S608 - the parts put in are constants of ours
)


async def list_claimed(tx: AsyncConnection, delivery_ids: Collection[UUID]) -> Sequence[AnyRow]:
    """All that is needed to make these deliveries: the event (NULL once it is past retention), where to, and the secrets."""
    return await _LIST_CLAIMED.fetch(tx, {"ids": list(delivery_ids)})


_LIST_CLAIMED: Final = Statement(
    f"SELECT {_CLAIMED} FROM deliveries d {_CLAIMED_JOINS} WHERE d.id = ANY(CAST(:ids AS uuid[])) ORDER BY d.id"  # noqa: S608
)


async def list_health(tx: AsyncConnection, ids: Collection[UUID]) -> dict[UUID, AnyRow]:
    """Read how subscriptions fare."""
    rows = await _LIST_HEALTH.fetch(tx, {"ids": list(ids)})
    return {row.id: row for row in rows}


async def lock_subscriptions(tx: AsyncConnection, ids: Collection[UUID]) -> dict[UUID, AnyRow]:
    """Lock subscriptions in order of id, and read how they fare."""
    rows = await _LOCK_SUBSCRIPTIONS.fetch(tx, {"ids": list(ids)})
    return {row.id: row for row in rows}


_HEALTH: Final = """
    SELECT id, team_id, url, description, failure_count, failing_since, last_success_at, disabled_at
    FROM subscriptions WHERE id = ANY(CAST(:ids AS uuid[])) AND deleted_at IS NULL
    """
_LIST_HEALTH: Final = Statement(_HEALTH)
_LOCK_SUBSCRIPTIONS: Final = Statement(f"{_HEALTH} ORDER BY id FOR NO KEY UPDATE")


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a delivery after so many attempts: it ends with a status and a reason, or is due again at a time.

    It is what its lease's holder says, and only that one may.
    """

    id: UUID
    lease_token: UUID
    attempt_count: int
    status: str
    reason: str | None
    due_at: datetime | None


async def record_outcomes(tx: AsyncConnection, outcomes: Sequence[Outcome], now: datetime) -> set[UUID]:
    """End deliveries, or have them made again, those that are still under these leases; they are locked in order of id.

    Answers which those were. Their leases end here.
    """
    if not outcomes:
        return set()
    parameters = {"now": now, "ids": [one.id for one in outcomes], "rows": recordset(outcomes)}
    return {row.id for row in await _RECORD_OUTCOMES.fetch(tx, parameters)}


_RECORD_OUTCOMES: Final = Statement(
    """
    WITH done AS (
        SELECT * FROM json_to_recordset(CAST(:rows AS json)) AS done (id uuid, lease_token uuid, status text, reason text,
            due_at timestamptz, attempt_count integer)
    ), locked AS (
        SELECT id, lease_token FROM deliveries WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR UPDATE
    ), ours AS (
        SELECT done.* FROM locked JOIN done USING (id, lease_token)
    )
    UPDATE deliveries SET status = ours.status, reason = ours.reason, due_at = ours.due_at, lease_token = NULL,
        attempt_count = ours.attempt_count, retrying = ours.due_at IS NOT NULL,
        ended_at = CASE WHEN ours.due_at IS NULL THEN CAST(:now AS timestamptz) END
    FROM ours WHERE deliveries.id = ANY(CAST(:ids AS uuid[])) AND deliveries.id = ours.id
    RETURNING deliveries.id
    """
)


class AttemptRow(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP try as it is kept."""

    id: UUID
    delivery_id: UUID
    at: datetime
    number: int
    seconds: float
    status: int | None
    error: str | None
    address: str | None
    request_headers: Mapping[str, Any]
    response_body: bytes
    next_at: datetime | None


async def insert_attempts(tx: AsyncConnection, attempts: Sequence[AttemptRow]) -> None:
    """Keep attempts; retention drops them by the day."""
    if not attempts:
        return
    await _INSERT_ATTEMPTS.fetch(tx, {"rows": recordset(attempts)})


_INSERT_ATTEMPTS: Final = Statement(
    """
    INSERT INTO attempts (id, delivery_id, at, number, seconds, status, error, address, request_headers, response_body,
        next_at)
    SELECT id, delivery_id, at, number, seconds, status, error, address, request_headers, decode(response_body, 'base64'),
        next_at
    FROM json_to_recordset(CAST(:rows AS json)) AS new (id uuid, delivery_id uuid, at timestamptz, number integer,
        seconds double precision, status smallint, error text, address text, request_headers jsonb, response_body text,
        next_at timestamptz)
    ON CONFLICT (delivery_id, at, id) DO NOTHING
    """
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How a subscription fares after a batch of attempts. `disabled_reason` is set where that is the end of it."""

    id: UUID
    failure_count: int
    failing_since: datetime | None
    last_success_at: datetime | None
    disabled_reason: str | None = None


async def record_health(tx: AsyncConnection, healths: Sequence[Health], now: datetime) -> None:
    """Write down how subscriptions fare, and disable some. They are locked."""
    if not healths:
        return
    await tx.execute(
        text(
            """
            UPDATE subscriptions SET failure_count = new.failure_count, failing_since = new.failing_since,
                last_success_at = new.last_success_at,
                disabled_at = CASE WHEN new.reason IS NULL THEN disabled_at ELSE coalesce(disabled_at, :now) END,
                disabled_reason = coalesce(disabled_reason, new.reason)
            FROM unnest(
                CAST(:ids AS uuid[]), CAST(:failure_counts AS integer[]), CAST(:failing_sinces AS timestamptz[]),
                CAST(:last_success_ats AS timestamptz[]), CAST(:reasons AS text[])
            ) AS new (id, failure_count, failing_since, last_success_at, reason)
            WHERE subscriptions.id = new.id
            """
        ),
        {
            "now": now,
            "ids": [one.id for one in healths],
            "failure_counts": [one.failure_count for one in healths],
            "failing_sinces": [one.failing_since for one in healths],
            "last_success_ats": [one.last_success_at for one in healths],
            "reasons": [one.disabled_reason for one in healths],
        },
    )
