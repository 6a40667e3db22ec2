"""The routes of events: the feed, the same as a stream, and tickets for clients that can send no header."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from app.auth import Caller
from app.clock import timestamp
from app.events import feed
from app.events.asking import FeedQuery, StreamQuery
from app.events.feed import EventFilter
from app.events.stream import EventStream, tail
from app.events.tickets import GOOD_FOR, identify_by, make_ticket
from app.exports import export, read_most, wanted_format
from app.http import caller, context, json_response


async def list_events(request: Request) -> Response:
    """Read your team's events in order, or with the scope `ops` those of all teams.

    Begin without `after`, at the oldest event that is kept, or with `after=latest`, from now on; go on with the
    `nextCursor` of the page before. No event is missed or repeated on the way, whatever happens meanwhile. With
    `?wait=SECONDS` (at most 60) the answer comes as soon as there is something on it, or then. `types` is a
    comma-separated list such as `job.completed,job.failed` or `job.*`. 410: what follows the cursor is not kept any more;
    `oldestCursor` is the oldest that is good. With `format=csv`, `format=jsonl` or such an `Accept`, all up to now come as a
    file, or `limit` of them.
    """

    async def identify() -> Caller:
        return await caller(request, "subscribe", "ops")

    await identify()
    if (wanted := wanted_format(request)) is not None:
        query = dict(request.query_params)
        most = read_most(query)
        query.pop("limit", None)
        pages = feed.list_pages(context(request), identify, FeedQuery.parse(query), most=most)
        return await export(wanted, "events", feed.COLUMNS, pages)
    asked = FeedQuery.parse(request.query_params)
    return json_response(await feed.poll(context(request), identify, asked))


async def stream_events(request: Request) -> Response:
    """Follow your team's events as they happen, or with the scope `ops` those of all teams: server-sent events.

    Each has the event's number as `id`, its type as `event`, and the event object as `data`. The stream begins now, or
    after the number in `Last-Event-ID` or `after`: whoever resumes misses nothing and sees nothing twice. `types` filters
    as in the feed. A comment comes after 15 seconds of silence. 410 as in the feed. A browser, which cannot send a key,
    sends a `ticket`.
    """
    identify = await identify_by(request, "subscribe", "ops")
    who = await identify()
    asked = StreamQuery.parse(request)
    cursor = await tail(request).find_cursor(asked.after)
    return EventStream(request, identify, cursor, EventFilter.of(who, asked.types))


async def create_ticket(request: Request) -> Response:
    """Make a ticket that opens streams for a minute, as `?ticket=`, in the name of the key that this is called with.

    A stream that it opened goes on after that, for as long as the key is good.
    """
    who = await caller(request, "subscribe", "read", "ops")
    ctx = context(request)
    expires_at = ctx.now() + GOOD_FOR
    ticket = make_ticket((await ctx.webhook_secrets())[0], who.key_id, expires_at)
    return json_response(
        {"ticket": ticket, "expiresAt": timestamp(expires_at)}, status=201, headers={"Cache-Control": "no-store"}
    )
