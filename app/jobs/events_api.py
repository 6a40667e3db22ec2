"""The routes of one job's events. The log knows jobs by id alone; whose a job is, and whether it is over, is known here."""

from __future__ import annotations

from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from app.auth import Caller
from app.db import AnyRow
from app.events import feed
from app.events.asking import FeedQuery, StreamQuery
from app.events.feed import EventFilter
from app.events.stream import ENDS, EventStream, tail
from app.events.tickets import identify_by
from app.http import caller, context, json_response
from app.jobs.reading import find_visible
from app.models.jobs import FINAL
from app.paging import parse_id


async def list_job_events(request: Request) -> Response:
    """Read the events of one of your team's jobs, or with the scope `ops` of any team's. The rest is as in the feed."""

    async def identify() -> Caller:
        return await caller(request, "read", "subscribe", "ops")

    who = await identify()
    asked = FeedQuery.parse(request.query_params)
    job = await _get_job(request, who)
    return json_response(await feed.poll(context(request), identify, asked, job_id=job.id))


async def stream_job_events(request: Request) -> Response:
    """Follow one job as it goes on, until it is over: server-sent events. The rest is as in the stream of all events.

    The stream ends after the job's last event. 204, which has browsers stay away: there is nothing more to come.
    """
    identify = await identify_by(request, "read", "subscribe", "ops")
    who = await identify()
    asked = StreamQuery.parse(request)
    # The cursor is taken before the job is read: what ends the job after that lies behind the cursor.
    cursor = await tail(request).find_cursor(asked.after)
    job = await _get_job(request, who)
    if job.status in FINAL and not await _has_end(request, job.id, cursor):
        return Response(status_code=204)
    wanted = EventFilter.of(who, asked.types, job_id=job.id)
    return EventStream(request, identify, cursor, wanted)


async def _get_job(request: Request, who: Caller) -> AnyRow:
    return await find_visible(context(request), who, parse_id(request.path_params["job_id"], "Job"))


async def _has_end(request: Request, job_id: UUID, cursor: int) -> bool:
    """Whether an event that ends a stream lies behind the cursor. What is told of the job's files later ends none."""
    wanted = EventFilter(job_id=job_id, types=tuple(sorted(ENDS)))
    async with context(request).db.reading() as connection:
        page = await feed.read(connection, cursor, wanted, limit=1)
    return bool(page.events)
