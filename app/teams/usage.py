"""What was spent on what: sums of the ledger, never counts of jobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from app.auth import Caller
from app.clock import timestamp
from app.context import Context
from app.errors import Forbidden, Invalid
from app.paging import read_time
from app.teams.ledger import month_name, month_of
from app.teams.queries import usage as queries
from app.teams.queries.teams import find_team_id

GROUPS: Final = ("team", "model", "operation", "day")
LONGEST: Final = timedelta(days=366 * 2)
ALL_TEAMS: Final = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Which sums: of which time, of one team by its name or of all by `*`, and by what they are told apart."""

    begins_at: datetime
    ends_at: datetime
    groups: tuple[str, ...]
    team: str | None

    @classmethod
    def parse(cls, query: Mapping[str, str], now: datetime) -> Asked:
        """Read a query string, by default this month so far by model; raise Invalid with every fault that was found."""
        faults: dict[str, list[str]] = {}
        first = month_of(now)
        begins_at = read_time(query.get("from"), "from", faults) or datetime(first.year, first.month, 1, tzinfo=UTC)
        ends_at = read_time(query.get("to"), "to", faults) or now
        groups = tuple(each.strip() for each in query.get("group_by", "model").split(",") if each.strip())
        if not set(groups) <= set(GROUPS):
            faults["group_by"] = [f"Expected some of {', '.join(GROUPS)}, with commas between them"]
        if not faults and not timedelta() < ends_at - begins_at <= LONGEST:
            faults["to"] = [f"Must be after `from`, by at most {LONGEST.days} days"]
        if "\0" in query.get("team", ""):
            faults["team"] = ["Must not contain a NUL character"]
        if faults:
            raise Invalid(details=faults)
        kept = tuple(group for group in GROUPS if group in groups)
        return cls(begins_at=begins_at, ends_at=ends_at, groups=kept, team=query.get("team"))


async def read_usage(ctx: Context, caller: Caller, asked: Asked) -> dict[str, Any]:
    """The answer of `GET /v1/usage`. Raises Forbidden for another team's, Invalid where there is no team of that name."""
    name = asked.team or caller.team
    if name != caller.team and not caller.sees_all:
        raise Forbidden("This key sees the usage of its own team only")
    async with ctx.db.reading() as connection:
        team_id = None if name == ALL_TEAMS else await find_team_id(connection, name)
        if team_id is None and name != ALL_TEAMS:
            raise Invalid(details={"team": ["There is no team of this name"]})
        rows = await queries.sum_usage(
            connection, team_id, groups=asked.groups, begins_at=asked.begins_at, ends_at=asked.ends_at
        )
        month = month_of(ctx.now())
        budget = await queries.find_budget(connection, team_id, month) if team_id is not None else None
    return {
        "from": timestamp(asked.begins_at),
        "to": timestamp(asked.ends_at),
        "groups": [{**{group: getattr(row, group) for group in asked.groups}, **_sums(row)} for row in rows],
        "total": {"jobs": sum(row.jobs for row in rows), "credits": sum(row.credits for row in rows)},
        "budget": None if budget is None else {"month": month_name(month)} | shape_budget(budget),
    }


def _sums(row: Any) -> dict[str, int]:
    return {"jobs": row.jobs, "credits": row.credits}


def shape_budget(row: Any) -> dict[str, Any]:
    """A budget and what is left of it: null, as much as one likes, where there is no limit."""
    left = None if row.budget is None else max(row.budget - row.reserved - row.spent, 0)
    return {"limit": row.budget, "reserved": row.reserved, "spent": row.spent, "available": left}
