"""The page of what was spent on what, and the same as CSV."""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import Response

from app.dashboard.listing import Listing
from app.dashboard.visits import Visit
from app.teams.standing import show_budgets
from app.teams.usage import ALL_TEAMS, Asked, read_usage
from app.teams.usage_api import as_file

SHOWN: Final = 200

FILTERS: Final = ("from", "to", "group_by", "team")

GROUPINGS: Final = (
    *(("model", "model"), ("team", "team"), ("operation", "operation"), ("day", "day")),
    *(("team,model", "team and model"), ("team,operation", "team and operation"), ("team,day", "team and day")),
)


async def show_usage(visit: Visit) -> Response:
    """What jobs cost in a time, by team, model, operation or day, and this month's budgets."""
    listing = Listing.of(visit, FILTERS)
    asked = _asked(visit, listing)
    usage = await read_usage(visit.ctx, visit.caller, asked)
    rows = _ordered(usage["groups"], asked.groups)
    return visit.render(
        "usage.html",
        usage=usage,
        groups=asked.groups,
        rows=rows[:SHOWN],
        left_out=len(rows) - SHOWN,
        most=max((row["credits"] for row in rows), default=0),
        groupings=GROUPINGS,
        budgets=await show_budgets(visit.ctx, visit.caller),
        csv=f"/ops/usage.csv{listing.url()}",
        **listing.links(None),
    )


async def download_usage(visit: Visit) -> Response:
    """The same groups, all of them, as CSV."""
    asked = _asked(visit, Listing.of(visit, FILTERS))
    usage = await read_usage(visit.ctx, visit.caller, asked)
    return as_file("csv", asked, usage)


def _asked(visit: Visit, listing: Listing) -> Asked:
    return Asked.parse({"team": ALL_TEAMS, **listing.asked}, visit.ctx.now())


def _ordered(rows: list[dict[str, Any]], groups: tuple[str, ...]) -> list[dict[str, Any]]:
    """Days as they came, the last one first; anything else by what it cost."""
    if "day" in groups:
        return sorted(rows, key=lambda row: (row["day"], row["credits"]), reverse=True)
    return sorted(rows, key=lambda row: row["credits"], reverse=True)
