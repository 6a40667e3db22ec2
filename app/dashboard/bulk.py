"""The pages around a thing that is done to many jobs: what it would come to, and what came of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Final
from urllib.parse import urlencode
from uuid import UUID, uuid4

from starlette.datastructures import QueryParams
from starlette.responses import Response

from app.dashboard.jobs import as_query, read_filter, shape_row
from app.dashboard.visits import Visit
from app.errors import Invalid
from app.jobs import bulk
from app.jobs.bulk import MOST_AT_ONCE, Action, Selection
from app.jobs.queries.finding import list_found
from app.paging import Cursor, find_id, read_time

SAMPLE: Final = 20

_NAMES: Final[dict[str, tuple[str, str]]] = {
    "retry": ("Try again", "tried again"),
    "cancel": ("Cancel", "cancelled"),
    "refresh": ("Ask the upstream after", "asked after"),
}
"""What each action is called before and after."""


async def preview(visit: Visit) -> Response:
    """What would be done, to how many jobs, and which of them are left out."""
    action, chosen = _read(visit)
    plan = await bulk.plan(visit.ctx, visit.caller, action, chosen)
    now = visit.ctx.now()
    async with visit.ctx.db.reading() as connection:
        sample = await list_found(connection, plan.todo[:SAMPLE])
    return visit.render(
        "bulk.html",
        plan=plan,
        rows=[shape_row(row, now) for row in sample],
        most=MOST_AT_ONCE,
        label=_NAMES[action][0],
        back=_back(chosen),
        fields=_fields(action, chosen, uuid4(), chosen.asked.cursor),
        ids=chosen.ids,
    )


async def confirm(visit: Visit) -> Response:
    """Do it, as far as one request goes, and tell what came of it."""
    action, chosen = _read(visit)
    bulk_id = find_id(visit.value("bulk"))
    if bulk_id is None:
        raise Invalid("This form is not complete")
    report = await bulk.carry_out(visit.ctx, visit.caller, action, chosen, bulk_id)
    return visit.render(
        "bulk_done.html",
        report=report,
        action=action,
        label=_NAMES[action][0],
        done=_NAMES[action][1],
        most=MOST_AT_ONCE,
        back=_back(chosen),
        fields=_fields(action, chosen, bulk_id, report.cursor),
    )


def _read(visit: Visit) -> tuple[Action, Selection]:
    """What a form asks for: the jobs that were chosen, or with `all` those that its filter finds. Raises Invalid."""
    action = next((known for known in bulk.ACTIONS if known == visit.value("action")), None)
    if action is None:
        raise Invalid("There is no such action")
    faults: dict[str, list[str]] = {}
    before = read_time(visit.value("before") or None, "before", faults)
    ids = tuple(filter(None, map(find_id, visit.form.get("job", []))))
    if faults:
        raise Invalid(details=faults)
    if not ids and not visit.value("all"):
        raise Invalid("No jobs were chosen")
    asked = read_filter(QueryParams(visit.value("filter")))
    cursor = visit.value("cursor")
    asked = replace(asked, cursor=Cursor.parse(cursor) if cursor else None)
    return action, Selection(asked=asked, ids=() if visit.value("all") else ids, before=before or visit.ctx.now())


def _back(chosen: Selection) -> str:
    query = as_query(chosen.asked)
    return f"/ops/jobs?{urlencode(query)}" if query else "/ops/jobs"


def _fields(action: Action, chosen: Selection, bulk_id: UUID, cursor: Cursor | None) -> dict[str, str]:
    """What the next form carries on: the time of the first look stays, whatever comes after it."""
    fields = {"action": action, "filter": urlencode(as_query(chosen.asked)), "before": chosen.before.isoformat()}
    fields |= {"bulk": str(bulk_id), "cursor": str(cursor) if cursor else ""}
    return fields if chosen.ids else fields | {"all": "1"}
