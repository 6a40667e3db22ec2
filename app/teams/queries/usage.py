"""SQL of usage: sums of the ledger. No table of jobs is read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow

_COLUMNS: Final = {
    "team": "teams.name",
    "model": "ledger.model",
    "operation": "ledger.operation",
    "day": "to_char(ledger.at AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
}


async def sum_usage(
    connection: AsyncConnection,
    team_id: UUID | None,
    *,
    groups: Sequence[str],
    begins_at: datetime,
    ends_at: datetime,
) -> Sequence[AnyRow]:
    """Jobs that were settled in this time and what they cost, by groups, of a team or with None of all."""
    columns = "".join(f"{_COLUMNS[group]} AS {group}, " for group in groups)
    places = ", ".join(str(number) for number in range(1, len(groups) + 1))
    statement = text(
        f"""
        SELECT {columns} count(*) AS jobs, CAST(sum(spent_change) AS bigint) AS credits
        FROM ledger JOIN teams ON teams.id = team_id
        WHERE kind = 'settle' AND at >= :begins_at AND at < :ends_at
            AND (CAST(:team_id AS uuid) IS NULL OR team_id = :team_id)
        {f"GROUP BY {places} ORDER BY {places}" if groups else "HAVING count(*) > 0"}
        """  # noqa: S608 - the parts put in are constants of ours
    )
    parameters = {"team_id": team_id, "begins_at": begins_at, "ends_at": ends_at}
    return (await connection.execute(statement, parameters)).all()


async def find_budget(connection: AsyncConnection, team_id: UUID, month: date) -> AnyRow:
    """What a team may spend in a month, has reserved and has spent."""
    return (await connection.execute(_FIND_BUDGET, {"team_id": team_id, "month": month})).one()


async def list_budgets(connection: AsyncConnection, month: date, *, limit: int) -> Sequence[AnyRow]:
    """The teams that have a budget or have spent something in a month, those that spent most first."""
    return (await connection.execute(_LIST_BUDGETS, {"month": month, "limit": limit})).all()


_LIST_BUDGETS: Final = text(
    """
    SELECT id, name, monthly_credits AS budget, coalesce(reserved, 0) AS reserved, coalesce(spent, 0) AS spent
    FROM teams LEFT JOIN balances ON team_id = id AND month = :month
    WHERE test_of IS NULL AND (monthly_credits IS NOT NULL OR spent > 0 OR reserved > 0)
    ORDER BY coalesce(spent, 0) DESC, id LIMIT :limit
    """
)

_FIND_BUDGET: Final = text(
    """
    SELECT monthly_credits AS budget, coalesce(reserved, 0) AS reserved, coalesce(spent, 0) AS spent
    FROM teams LEFT JOIN balances ON team_id = id AND month = :month
    WHERE id = :team_id
    """
)
