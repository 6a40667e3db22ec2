"""What has open pages look again: the stream of events, for whoever is signed in."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from app.dashboard.sessions import identify
from app.events.asking import StreamQuery
from app.events.feed import EventFilter
from app.events.stream import EventStream, tail


async def follow(request: Request) -> Response:
    """All events of all teams from now on, until the session ends. Pages need to know of what, and look for themselves."""
    who = await identify(request)
    asked = StreamQuery.parse(request)
    cursor = await tail(request).find_cursor(asked.after)
    return EventStream(request, lambda: identify(request), cursor, EventFilter.of(who, asked.types))
