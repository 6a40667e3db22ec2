"""SQL of usage: sums of the ledger. No table of jobs is read, and where whole days are tallied, no ledger of those days."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow
from app.models.ops import TALLIES

_COLUMNS: Final = {
    "team": "teams.name",
    "model": "spent.model",
    "operation": "spent.operation",
    "day": "to_char(spent.at AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
}

_DAY: Final = timedelta(days=1)


async def sum_usage(
    connection: AsyncConnection,
    team_id: UUID | None,
    *,
    groups: Sequence[str],
    begins_at: datetime,
    ends_at: datetime,
) -> Sequence[AnyRow]:
    """Jobs that were settled in this time and what they cost, by groups, of a team or with None of all."""
    first, last = await _find_tallied_days(connection, begins_at, ends_at)
    columns = "".join(f"{_COLUMNS[group]} AS {group}, " for group in groups)
    places = ", ".join(str(number) for number in range(1, len(groups) + 1))
    statement = text(
        f"""
        SELECT {columns} CAST(sum(jobs) AS bigint) AS jobs, CAST(sum(credits) AS bigint) AS credits
        FROM ({_SPENT}) AS spent JOIN teams ON teams.id = spent.team_id
        WHERE (CAST(:team_id AS uuid) IS NULL OR spent.team_id = :team_id)
        {f"GROUP BY {places} ORDER BY {places}" if groups else "HAVING count(*) > 0"}
        """  # noqa: S608 - the parts put in are constants of ours
    )
    parameters = {"team_id": team_id, "begins_at": begins_at, "ends_at": ends_at, "first": first, "last": last}
    return (await connection.execute(statement, parameters)).all()


# A job is settled by the transaction that tells of its completion, so a day's tallies are its ledger's sums. The ledger
# has no test teams.
_SPENT: Final = """
    SELECT team_id, operation, model, at, 1 AS jobs, spent_change AS credits
    FROM ledger WHERE kind = 'settle' AND at >= :begins_at AND at < :first
    UNION ALL
    SELECT team_id, operation, model, at, 1, spent_change
    FROM ledger WHERE kind = 'settle' AND at >= :last AND at < :ends_at
    UNION ALL
    SELECT team_id, operation, model, begins_at, completed, credits
    FROM tallies JOIN teams live ON live.id = team_id AND live.test_of IS NULL
    WHERE span = 'day' AND begins_at >= :first AND begins_at < :last AND completed > 0
    """


async def _find_tallied_days(
    connection: AsyncConnection, begins_at: datetime, ends_at: datetime
) -> tuple[datetime, datetime]:
    """The whole days between two times that are tallied to their end, from a midnight to another; or none, at the end."""
    place = (await connection.execute(_FIND_PLACE, {"name": TALLIES})).one_or_none()
    if place is None:
        return ends_at, ends_at
    unread = (await connection.execute(_FIND_UNREAD, {"sequence": place.sequence})).scalar_one_or_none()
    first = _midnight(max(begins_at, place.began_at) + _DAY - timedelta.resolution)
    # What was begun before midnight may be told of after it, by clocks that differ.
    last = min(_midnight(ends_at), _midnight(min(place.updated_at, unread or place.updated_at) - _SETTLED))
    return (first, last) if first < last else (ends_at, ends_at)


def _midnight(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


_SETTLED: Final = timedelta(minutes=5)

_FIND_PLACE: Final = text("SELECT sequence, updated_at, began_at FROM log_readers WHERE name = :name")

_FIND_UNREAD: Final = text("SELECT at FROM events WHERE sequence > :sequence ORDER BY sequence LIMIT 1")


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
