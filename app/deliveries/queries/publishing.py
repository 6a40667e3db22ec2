"""SQL of publishing: who listens, and what is due to them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDelivery:
    """A delivery that is about to be made. `lease` is set where its maker sends it itself."""

    id: UUID
    event_id: UUID
    event_at: datetime
    event_type: str
    team_id: UUID
    job_id: UUID | None
    subscription_id: UUID | None = None
    callback_url: str | None = None
    callback_key_id: UUID | None = None
    target: str
    status: str = "pending"
    reason: str | None = None
    due_at: datetime | None
    lease: UUID | None = None


async def list_listening(tx: AsyncConnection, team_ids: Collection[UUID]) -> Sequence[AnyRow]:
    """Subscriptions that the events of these teams may concern, disabled ones too: for those, deliveries are kept."""
    return (await tx.execute(_LIST_LISTENING, {"team_ids": list(team_ids)})).all()


_LIST_LISTENING: Final = text(
    """
    SELECT id, team_id, all_teams, types, operation, model, metadata, disabled_at IS NOT NULL AS disabled
    FROM subscriptions
    WHERE deleted_at IS NULL AND (all_teams OR team_id = ANY(CAST(:team_ids AS uuid[])))
    ORDER BY id
    """
)


async def insert_deliveries(tx: AsyncConnection, deliveries: Sequence[NewDelivery], now: datetime) -> None:
    """Make deliveries, in the transaction that makes their events true."""
    if not deliveries:
        return
    await tx.execute(
        _INSERT,
        {
            "now": now,
            "ids": [each.id for each in deliveries],
            "event_ids": [each.event_id for each in deliveries],
            "event_ats": [each.event_at for each in deliveries],
            "event_types": [each.event_type for each in deliveries],
            "team_ids": [each.team_id for each in deliveries],
            "job_ids": [each.job_id for each in deliveries],
            "subscription_ids": [each.subscription_id for each in deliveries],
            "callback_urls": [each.callback_url for each in deliveries],
            "callback_key_ids": [each.callback_key_id for each in deliveries],
            "targets": [each.target for each in deliveries],
            "statuses": [each.status for each in deliveries],
            "reasons": [each.reason for each in deliveries],
            "due_ats": [each.due_at for each in deliveries],
            "leases": [each.lease for each in deliveries],
        },
    )


_INSERT: Final = text(
    """
    INSERT INTO deliveries (id, event_id, event_at, event_type, team_id, job_id, subscription_id, callback_url,
        callback_key_id, target, created_at, status, reason, ended_at, due_at, lease_token)
    SELECT id, event_id, event_at, event_type, team_id, job_id, subscription_id, callback_url, callback_key_id, target,
        :now, status, reason, CASE WHEN due_at IS NULL THEN CAST(:now AS timestamptz) END, due_at, lease
    FROM unnest(
        CAST(:ids AS uuid[]), CAST(:event_ids AS uuid[]), CAST(:event_ats AS timestamptz[]),
        CAST(:event_types AS text[]), CAST(:team_ids AS uuid[]), CAST(:job_ids AS uuid[]),
        CAST(:subscription_ids AS uuid[]), CAST(:callback_urls AS text[]), CAST(:callback_key_ids AS uuid[]),
        CAST(:targets AS text[]), CAST(:statuses AS text[]), CAST(:reasons AS text[]), CAST(:due_ats AS timestamptz[]),
        CAST(:leases AS uuid[])
    ) AS new (id, event_id, event_at, event_type, team_id, job_id, subscription_id, callback_url, callback_key_id,
        target, status, reason, due_at, lease)
    """
)
