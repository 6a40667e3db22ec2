"""The list of jobs: what is looked for is in the URL, and every part of it can be taken away again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

import msgspec
from starlette.datastructures import QueryParams
from starlette.responses import RedirectResponse, Response

from app.apiframe.operations import OPERATIONS
from app.dashboard.job import summary
from app.dashboard.sessions import identify
from app.dashboard.visits import Visit
from app.db import AnyRow
from app.exports import Format, export
from app.jobs.exporting import COLUMNS, list_pages
from app.jobs.filters import ALL_TEAMS, METADATA, JobFilter
from app.jobs.finding import find_jobs
from app.jobs.queries.reading import list_models
from app.jobs.reading import identify_team
from app.models.jobs import STATUSES
from app.ops.queries import find_traced_job
from app.paging import find_id
from app.teams.queries.teams import list_teams

SHOWN: Final = 50
MOST_TEAMS: Final = 1_000

_HIDDEN: Final = ("scope", "include_models")
_LABELS: Final = {
    "status": "",
    "model": "model",
    "operation": "operation",
    "team": "team",
    "errorCode": "error code",
    "overdue": "",
    "createdAfter": "from",
    "createdBefore": "before",
    "q": "words",
    "search": "id",
}
"""How the parameters are called where they can be taken away; some need no name."""


async def show_jobs(visit: Visit) -> Response:
    """A page of jobs, newest first; what is searched for and is the id of one leads to its page."""
    query = visit.request.query_params
    if (found := await _find_by_id(visit, query.get("q", "").strip())) is not None:
        return RedirectResponse(f"/ops/jobs/{found}", status_code=303, headers={"Cache-Control": "no-store"})
    asked = read_filter(query)
    now = visit.ctx.now()
    async with visit.ctx.db.reading() as connection:
        team_id = await identify_team(connection, visit.caller, asked.team)
        page = await find_jobs(connection, asked, team_id=team_id, key_id=None, now=now)
        models = await list_models(connection, team_id)
        teams = await list_teams(connection, after=None, limit=MOST_TEAMS)
    given = as_query(asked)
    return visit.render(
        "jobs.html",
        rows=[shape_row(row, now) for row in page.rows],
        asked=asked,
        given=given,
        encoded=urlencode(given),
        chips=_chips(asked),
        presets=_presets(now, given),
        statuses=STATUSES,
        operations=OPERATIONS,
        models=models if asked.model in (None, *models) else [*models, asked.model],
        teams=[row.name for row in teams],
        fields=_fields(asked),
        looked_back_to=page.looked_back_to,
        newest=f"/ops/jobs?{urlencode(given)}" if asked.cursor else None,
        older=f"/ops/jobs?{urlencode(given | {'cursor': str(page.cursor)})}" if page.cursor else None,
    )


async def export_csv(visit: Visit) -> Response:
    """All that match, as a table."""
    return await _export(visit, "csv")


async def export_jsonl(visit: Visit) -> Response:
    """All that match, a line of JSON for each."""
    return await _export(visit, "jsonl")


async def _export(visit: Visit, wanted: Format) -> Response:
    asked = read_filter(visit.request.query_params)
    pages = list_pages(visit.ctx, lambda: identify(visit.request), asked, most=None)
    return await export(wanted, "jobs", COLUMNS, pages)


def read_filter(query: QueryParams) -> JobFilter:
    """What a form or a link asks for: of all teams, unless one is named. Raises Invalid.

    A form has a box for each status, and `metadata` as KEY=VALUE; empty fields ask for nothing.
    """
    given = {name: text.strip() for name, text in query.items() if text.strip() and name not in (*_HIDDEN, "limit")}
    if statuses := [status for status in query.getlist("status") if status]:
        given["status"] = ",".join(statuses)
    given.pop("metadata", None)
    for pair in filter(None, (text.strip() for text in query.getlist("metadata"))):
        key, _, value = pair.partition("=")
        given[f"{METADATA}{key.strip()}"] = value.strip()
    return JobFilter.parse({"team": ALL_TEAMS, **given, "limit": str(SHOWN)})


def as_query(asked: JobFilter) -> dict[str, str]:
    """A filter as the query of a page: what goes without saying is left out."""
    query = asked.as_query()
    return {
        name: value
        for name, value in query.items()
        if name not in _HIDDEN and not (name == "team" and value == ALL_TEAMS)
    }


def shape_row(row: AnyRow, now: datetime) -> dict[str, Any]:
    """What the list tells of a job."""
    files = msgspec.json.decode(row.files) if row.files else []
    pictures = [file["id"] for file in files if file["status"] == "stored" and file["thumbnail"]]
    over = row.completed_at is not None
    return {
        "row": row,
        "thumbnail": f"/ops/files/{pictures[0]}/thumbnail" if pictures else None,
        "summary": summary(msgspec.json.decode(row.input)),
        "overdue": not over and row.overdue_at is not None and row.overdue_at <= now,
        "seconds": ((row.completed_at if over else now) - row.created_at).total_seconds(),
    }


async def _find_by_id(visit: Visit, text: str) -> UUID | None:
    """The job that a text is the id of, ours or the upstream's. What is more than one word is no id."""
    if not text or not text.isprintable() or " " in text:
        return None
    job_id = find_id(text)
    async with visit.ctx.db.reading() as connection:
        row = await find_traced_job(connection, visit.caller.only_team, job_id=job_id, upstream_id=str(job_id or text))
    return None if row is None else row.id


def _chips(asked: JobFilter) -> list[tuple[str, str]]:
    """What is asked for, in words, each with the URL that asks for the rest."""
    query = as_query(replace(asked, status=()))
    chips = []
    for status in asked.status:
        rest = replace(asked, status=tuple(other for other in asked.status if other != status))
        chips.append((status, _url(as_query(rest))))
    statuses = {"status": ",".join(asked.status)} if asked.status else {}
    for name, value in query.items():
        rest_of = {**statuses, **{other: text for other, text in query.items() if other != name}}
        chips.append((_in_words(name, value), _url(rest_of)))
    return chips


def _in_words(name: str, value: str) -> str:
    if name == "overdue":
        return "overdue"
    label = _LABELS.get(name) or name.removeprefix(METADATA)
    return f"{label}: {value}" if name in _LABELS else f"{label} = {value}"


def _url(query: Mapping[str, str]) -> str:
    return f"/ops/jobs?{urlencode(query)}" if query else "/ops/jobs"


def _presets(now: datetime, given: Mapping[str, str]) -> list[tuple[str, str, bool]]:
    """What operators ask most: a name, a URL, and whether that is what is shown."""
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    asked = {
        "All": JobFilter(),
        "Failed today": JobFilter(status=("FAILED",), created_after=today),
        "Waiting": JobFilter(status=("QUEUED",)),
        "In flight": JobFilter(status=("PROCESSING",)),
        "Overdue": JobFilter(overdue=True),
    }
    return [(name, _url(query := as_query(one)), query == dict(given)) for name, one in asked.items()]


def _fields(asked: JobFilter) -> dict[str, str]:
    """What stands in those fields of the form that are not spelled as the filter is."""
    return {
        "q": asked.words or asked.search or "",
        "team": "" if asked.team in (None, ALL_TEAMS) else asked.team,
        "createdAfter": _local(asked.created_after),
        "createdBefore": _local(asked.created_before),
    }


def _local(time: datetime | None) -> str:
    """A time as a browser's field has it, rounded to what that can hold."""
    if time is None:
        return ""
    whole = time + timedelta(microseconds=500) if time.microsecond else time
    return whole.replace(tzinfo=None).isoformat(timespec="seconds" if not time.microsecond else "milliseconds")
