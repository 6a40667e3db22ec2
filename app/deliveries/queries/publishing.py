"""SQL of publishing: who listens, and what is due to them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow, recordset
from app.statements import Statement


class NewDelivery(msgspec.Struct, frozen=True, kw_only=True):
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
    return await _LIST_LISTENING.fetch(tx, {"team_ids": list(team_ids)})


_LIST_LISTENING: Final = Statement(
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
    await _INSERT.fetch(tx, {"now": now, "rows": recordset(deliveries)})


_INSERT: Final = Statement(
    """
    INSERT INTO deliveries (id, event_id, event_at, event_type, team_id, job_id, subscription_id, callback_url,
        callback_key_id, target, created_at, status, reason, ended_at, due_at, lease_token)
    SELECT id, event_id, event_at, event_type, team_id, job_id, subscription_id, callback_url, callback_key_id, target,
        :now, status, reason, CASE WHEN due_at IS NULL THEN CAST(:now AS timestamptz) END, due_at, lease
    FROM json_to_recordset(CAST(:rows AS json)) AS new (id uuid, event_id uuid, event_at timestamptz, event_type text,
        team_id uuid, job_id uuid, subscription_id uuid, callback_url text, callback_key_id uuid, target text, status text,
        reason text, due_at timestamptz, lease uuid)
    """
)
