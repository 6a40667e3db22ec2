"""SQL of what belongs to whom at the upstream, and of what a key is told of itself."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow


async def insert_belonging(
    tx: AsyncConnection, account: str, kind: str, upstream_id: str, *, team_id: UUID, key_id: UUID, now: datetime
) -> UUID:
    """Write down whose something is, unless that is known; return the team whose it is then."""
    row = await tx.execute(
        _INSERT,
        {
            "account": account,
            "kind": kind,
            "upstream_id": upstream_id,
            "team_id": team_id,
            "key_id": key_id,
            "now": now,
        },
    )
    return UUID(str(row.scalar_one()))


_INSERT: Final = text(
    """
    INSERT INTO belongings (account, kind, upstream_id, team_id, key_id, created_at)
    VALUES (:account, :kind, :upstream_id, :team_id, :key_id, :now)
    ON CONFLICT (account, kind, upstream_id) DO UPDATE SET team_id = belongings.team_id
    RETURNING team_id
    """
)


async def list_own(
    connection: AsyncConnection, account: str, kind: str, team_id: UUID, upstream_ids: Sequence[str]
) -> set[str]:
    """Which of these are the team's."""
    rows = await connection.execute(
        text(
            """
            SELECT upstream_id FROM belongings
            WHERE account = :account AND kind = :kind AND upstream_id = ANY(:upstream_ids) AND team_id = :team_id
            """
        ),
        {"account": account, "kind": kind, "upstream_ids": list(upstream_ids), "team_id": team_id},
    )
    return set(rows.scalars())


async def has_any(connection: AsyncConnection, account: str, kind: str, team_id: UUID) -> bool:
    """Whether the team has anything of this kind."""
    rows = await connection.execute(
        text("SELECT 1 FROM belongings WHERE account = :account AND kind = :kind AND team_id = :team_id LIMIT 1"),
        {"account": account, "kind": kind, "team_id": team_id},
    )
    return rows.first() is not None


async def get_key(connection: AsyncConnection, key_id: UUID, account: str, month: date) -> AnyRow:
    """A key with its team, what the team has left in a month (None: it has no budget), and the account's cap."""
    return (await connection.execute(_GET_KEY, {"key_id": key_id, "account": account, "month": month})).one()


_GET_KEY: Final = text(
    """
    SELECT k.name, k.prefix, t.in_flight_limit,
        greatest(t.monthly_credits - coalesce(b.reserved, 0) - coalesce(b.spent, 0), 0) AS credits_left,
        t.monthly_credits IS NOT NULL AS has_budget, a.cap
    FROM api_keys k JOIN teams t ON t.id = k.team_id
    LEFT JOIN balances b ON b.team_id = t.id AND b.month = :month
    LEFT JOIN upstream_accounts a ON a.id = :account
    WHERE k.id = :key_id
    """
)
