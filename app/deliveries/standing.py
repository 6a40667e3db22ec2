"""How the subscriptions of all teams stand, as operators see it: who fails, who is disabled, how much was not delivered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from app.auth import Caller
from app.context import Context
from app.deliveries.finding import find_deliveries
from app.deliveries.queries import replays
from app.deliveries.queries import subscriptions as queries
from app.deliveries.replay import shape_replay
from app.deliveries.subscriptions import shape_subscription
from app.errors import Invalid, NotFound
from app.paging import find_id
from app.teams.seeing import narrowed

FILTERS: Final = ("state", "team")

STATES: Final = tuple(queries.STATES)

MOST_COUNTED: Final = 1000
"""So many undelivered ones of a subscription are counted."""

RECENT: Final = 15
REPLAYS: Final = 5


async def find_subscriptions(ctx: Context, caller: Caller, query: Mapping[str, str], *, limit: int) -> dict[str, Any]:
    """A page of the subscriptions of all teams, newest first, by any of `FILTERS`. Raises Forbidden, Invalid."""
    caller.must("ops")
    before, state = find_id(query.get("cursor")), query.get("state")
    faults = {"state": [f"Must be one of {', '.join(STATES)}"]} if state not in (None, *STATES) else {}
    if "cursor" in query and before is None:
        faults["cursor"] = ["Not a cursor of this list"]
    if faults:
        raise Invalid(details=faults)
    async with ctx.db.reading() as connection:
        team_id = await narrowed(connection, caller, None, query.get("team"))
        rows = await queries.list_standing(connection, team_id=team_id, state=state, before=before, limit=limit + 1)
        page, more = rows[:limit], len(rows) > limit
        counts = await queries.count_undelivered(connection, [row.id for row in page], limit=MOST_COUNTED + 1)
    return {
        "subscriptions": [shape_subscription(row) | _undelivered(counts[row.id]) for row in page],
        "nextCursor": str(page[-1].id) if more else None,
    }


async def show_standing(ctx: Context, caller: Caller, subscription_id: UUID) -> dict[str, Any]:
    """A subscription with its newest deliveries and replays. Raises Forbidden, NotFound."""
    caller.must("ops")
    async with ctx.db.reading() as connection:
        row = await queries.find_subscription(connection, None, subscription_id)
        if row is None:
            raise NotFound("Subscription not found")
        counts = await queries.count_undelivered(connection, [subscription_id], limit=MOST_COUNTED + 1)
        latest = await replays.list_replays(connection, subscription_id, limit=REPLAYS)
    recent = await find_deliveries(ctx, caller, {"subscription": str(subscription_id)}, limit=RECENT)
    return (
        shape_subscription(row)
        | _undelivered(counts[subscription_id])
        | {
            "teamId": row.team_id,
            "replays": [shape_replay(each) for each in latest],
            "deliveries": recent["deliveries"],
        }
    )


def _undelivered(count: int) -> dict[str, Any]:
    return {"undelivered": min(count, MOST_COUNTED), "moreUndelivered": count > MOST_COUNTED}
