"""How teams stand, as operators see it: what each may do, what it spent this month, how many keys of it are good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from app.auth import Caller
from app.context import Context
from app.db import AnyRow
from app.errors import Invalid, NotFound
from app.teams.ledger import month_name, month_of
from app.teams.queries import teams as queries
from app.teams.queries.usage import list_budgets
from app.teams.teams import shape_team
from app.teams.usage import shape_budget

FILTERS: Final = ("q",)

MOST_BUDGETS: Final = 200


async def find_teams(ctx: Context, caller: Caller, query: Mapping[str, str], *, limit: int) -> dict[str, Any]:
    """A page of teams by name; `q` is a part of it, and `cursor` the name that the page begins behind. Raises Forbidden."""
    caller.must("ops")
    named, after = query.get("q", ""), query.get("cursor", "")
    if "\0" in named + after:
        raise Invalid(details={"q": ["Must not contain a NUL character"]})
    now = ctx.now()
    async with ctx.db.reading() as connection:
        rows = await queries.list_standing(
            connection, month=month_of(now), now=now, named=named, after=after, limit=limit + 1
        )
    page, more = rows[:limit], len(rows) > limit
    return {"teams": [_shape(row) for row in page], "nextCursor": page[-1].name if more else None}


async def show_standing(ctx: Context, caller: Caller, team_id: UUID) -> dict[str, Any]:
    """The same of one team. Raises Forbidden, NotFound."""
    caller.must("ops")
    now = ctx.now()
    async with ctx.db.reading() as connection:
        row = await queries.find_standing(connection, team_id, month=month_of(now), now=now)
    if row is None:
        raise NotFound("Team not found")
    return _shape(row)


async def show_budgets(ctx: Context, caller: Caller) -> dict[str, Any]:
    """This month's budgets of all teams and what is left of them, the dearest first. Raises Forbidden."""
    caller.must("ops")
    month = month_of(ctx.now())
    async with ctx.db.reading() as connection:
        rows = await list_budgets(connection, month, limit=MOST_BUDGETS)
    return {
        "month": month_name(month),
        "budgets": [{"teamId": row.id, "team": row.name, **shape_budget(row)} for row in rows],
    }


def _shape(row: AnyRow) -> dict[str, Any]:
    """`testOf` is the team whose tests this one runs, `twinId` the team that runs this one's."""
    return shape_team(row) | {
        "testOf": {"id": row.test_of, "name": row.tested_team} if row.test_of else None,
        "twinId": row.twin_id,
        "budget": shape_budget(row),
        "keyCount": min(row.key_count, queries.MOST_KEYS),
        "moreKeys": row.key_count > queries.MOST_KEYS,
    }
