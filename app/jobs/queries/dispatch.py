"""SQL of dispatch: who may be sent, leases, releases, refusals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow
from app.models.jobs import IN_FLIGHT
from app.statements import Statement


async def lock_dispatchable(
    tx: AsyncConnection,
    *,
    account: str,
    cap: int,
    keys: Sequence[str],
    fresh: bool,
    wanted: Sequence[UUID] | None,
    now: datetime,
    ambiguous_after: datetime,
) -> Sequence[AnyRow]:
    """Lock the jobs that may be sent now: those whose fate is unknown, which hold a slot, then as many as slots are free.

    Of the first only those sent under one of `keys`, of the others only where `fresh`. They come in the order in which
    their turn is. Teams that an operator paused are left out, and of a team with a limit of its own only as many are
    taken as it leaves: its other jobs keep no other team from its slots.

    One that became ambiguous before `ambiguous_after` is left out: the upstream may have forgotten its key.

    The free slots go to the team least served, then by priority, then by age. With `wanted`, only these jobs are returned
    where it is their turn: they are fresh, their callers wait, and asking for oneself overtakes nobody.
    """
    parameters = {
        "account": account,
        "cap": cap,
        "keys": keys,
        "fresh": fresh,
        "wanted": wanted,
        "now": now,
        "ambiguous_after": ambiguous_after,
    }
    return await _LOCK_DISPATCHABLE.fetch(tx, parameters)


_LOCK_DISPATCHABLE: Final = Statement(
    f"""
    WITH load AS (
        SELECT team_id, count(*) AS running FROM jobs
        WHERE upstream_account = :account AND {IN_FLIGHT}
        GROUP BY team_id
    ), again AS (
        SELECT jobs.id, row_number() OVER (ORDER BY dispatch_at) AS place
        FROM jobs JOIN teams ON teams.id = jobs.team_id AND teams.paused_at IS NULL
        WHERE upstream_account = :account AND dispatch_at <= :now AND ambiguous_since IS NOT NULL
            AND upstream_key = ANY(CAST(:keys AS text[])) AND ambiguous_since > :ambiguous_after
        ORDER BY dispatch_at LIMIT CAST(:cap AS integer)
    ), ranked AS (
        SELECT waiting.id, waiting.priority, waiting.created_at,
            coalesce(load.running, 0) + row_number() OVER (
                PARTITION BY teams.id ORDER BY waiting.priority DESC, waiting.created_at, waiting.id
            ) AS turn
        FROM teams
        LEFT JOIN load ON load.team_id = teams.id
        CROSS JOIN LATERAL (
            SELECT id, priority, created_at FROM jobs
            WHERE upstream_account = :account AND team_id = teams.id
                AND dispatch_at IS NOT NULL AND ambiguous_since IS NULL
                AND (dispatch_at <= :now OR id = ANY(CAST(:wanted AS uuid[])))
            ORDER BY priority DESC, created_at, id
            LIMIT greatest(least(CAST(:cap AS integer), teams.in_flight_limit - coalesce(load.running, 0)), 0)
        ) AS waiting
        WHERE CAST(:fresh AS boolean) AND teams.paused_at IS NULL
    ), fresh AS (
        SELECT id, row_number() OVER (ORDER BY turn, priority DESC, created_at, id) AS place
        FROM ranked ORDER BY place
        LIMIT greatest(CAST(:cap AS integer) - (SELECT coalesce(sum(running), 0) FROM load), 0)
    ), chosen AS (
        SELECT id, 0 AS rank, place FROM again UNION ALL SELECT id, 1, place FROM fresh
    )
    SELECT jobs.id, operation, wire_body, wire_key, wire_webhook, upstream_key, ambiguous_since, ambiguous_by,
        dispatch_count
    FROM jobs JOIN chosen ON chosen.id = jobs.id
    WHERE completed_at IS NULL
        AND CASE WHEN CAST(:wanted AS uuid[]) IS NULL THEN dispatch_at <= :now
            ELSE jobs.id = ANY(CAST(:wanted AS uuid[])) AND ambiguous_since IS NULL END
    ORDER BY chosen.rank, chosen.place
    FOR UPDATE OF jobs SKIP LOCKED
    """  # noqa: S608 - the only part put in is a constant of ours
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """The frozen wire of a job and the lease under which it is being sent."""

    id: UUID
    lease: UUID
    wire_body: bytes
    wire_key: str
    wire_webhook: str
    upstream_key: str


async def lease_jobs(tx: AsyncConnection, sendings: Sequence[Sending], *, now: datetime, until: datetime) -> None:
    """Freeze the wire and take the lease, before anything is sent: from this commit on the job may have been received."""
    if not sendings:
        return
    await _LEASE.fetch(
        tx,
        {
            "now": now,
            "until": until,
            "ids": [sending.id for sending in sendings],
            "leases": [sending.lease for sending in sendings],
            "bodies": [sending.wire_body for sending in sendings],
            "wire_keys": [sending.wire_key for sending in sendings],
            "webhooks": [sending.wire_webhook for sending in sendings],
            "upstream_keys": [sending.upstream_key for sending in sendings],
        },
    )


_LEASE: Final = Statement(
    """
    UPDATE jobs SET
        lease_token = new.lease, dispatch_at = :until, dispatch_count = jobs.dispatch_count + 1,
        ambiguous_since = coalesce(jobs.ambiguous_since, :now),
        ambiguous_by = CASE WHEN jobs.ambiguous_since IS NULL THEN new.lease ELSE jobs.ambiguous_by END,
        wire_body = new.body, wire_key = new.wire_key, wire_webhook = new.webhook, upstream_key = new.upstream_key,
        updated_at = :now
    FROM unnest(
        CAST(:ids AS uuid[]), CAST(:leases AS uuid[]), CAST(:bodies AS bytea[]), CAST(:wire_keys AS text[]),
        CAST(:webhooks AS text[]), CAST(:upstream_keys AS text[])
    ) AS new (id, lease, body, wire_key, webhook, upstream_key)
    WHERE jobs.id = new.id
    """
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A job goes back to wait. `unsent`: this attempt was the first, and it was definitely refused."""

    id: UUID
    due_at: datetime
    unsent: bool


async def release_jobs(tx: AsyncConnection, releases: Sequence[Release], *, now: datetime) -> None:
    """Give up the leases of jobs that this transaction holds locked; they are due again at their time."""
    if not releases:
        return
    await _RELEASE.fetch(
        tx,
        {
            "now": now,
            "ids": [release.id for release in releases],
            "due_ats": [release.due_at for release in releases],
            "unsents": [release.unsent for release in releases],
        },
    )


_RELEASE: Final = Statement(
    """
    UPDATE jobs SET
        lease_token = NULL, dispatch_at = done.due_at, updated_at = :now,
        ambiguous_since = CASE WHEN done.unsent THEN NULL ELSE ambiguous_since END,
        ambiguous_by = CASE WHEN done.unsent THEN NULL ELSE ambiguous_by END
    FROM unnest(CAST(:ids AS uuid[]), CAST(:due_ats AS timestamptz[]), CAST(:unsents AS boolean[]))
        AS done (id, due_at, unsent)
    WHERE jobs.id = done.id
    """
)


async def record_refusals(tx: AsyncConnection, refusals: Mapping[UUID, Mapping[str, Any]]) -> None:
    """Keep what the upstream said to jobs that it refused before their callers were promised anything.

    Their Idempotency-Keys are free again. The jobs are locked by this transaction and end through the door.
    """
    if not refusals:
        return
    parameters = {
        "ids": list(refusals),
        "refusals": [msgspec.json.encode(refusal).decode() for refusal in refusals.values()],
    }
    await tx.execute(
        text(
            """
            UPDATE jobs SET refusal = CAST(told.refusal AS jsonb), ambiguous_since = NULL, ambiguous_by = NULL
            FROM unnest(CAST(:ids AS uuid[]), CAST(:refusals AS text[])) AS told (id, refusal)
            WHERE jobs.id = told.id
            """
        ),
        parameters,
    )
    await tx.execute(
        text(
            """
            DELETE FROM idempotency_keys k USING jobs
            WHERE jobs.id = ANY(CAST(:ids AS uuid[])) AND k.team_id = jobs.team_id
                AND k.key = jobs.idempotency_key AND k.job_id = jobs.id
            """
        ),
        {"ids": parameters["ids"]},
    )
