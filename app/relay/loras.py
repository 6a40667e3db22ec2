"""A team's own LoRAs, picked out of pages that hold those of the whole account.

A page ends where the upstream's own cursor goes on: nothing is shown twice, nothing is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import urlencode

import msgspec
import structlog
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from app.auth import Caller
from app.errors import BadGateway, Invalid
from app.http import context, json_response
from app.paging import read_limit
from app.relay.cursors import seal, unseal
from app.relay.passing import Whole, ask, passing_of
from app.relay.queries import has_any, list_own

log = structlog.get_logger()

DEFAULT_LIMIT: Final = 24
LARGEST_PAGE: Final = 100
MOST_PAGES: Final = 10
"""So often the upstream is asked for one page of ours at most; one that is not full by then ends, and has a cursor."""


class _Named(msgspec.Struct):
    id: str


class _Page(msgspec.Struct, rename="camel"):
    """A page of the upstream's; its items are passed on as they were written."""

    items: list[msgspec.Raw]
    next_cursor: str | None


class Strange(Exception):
    """An answer that is no page: a refusal, most likely."""

    def __init__(self, answer: Whole) -> None:
        super().__init__(answer.status)
        self.answer = answer


class Pages(Protocol):
    """Asks for one page of the account's, and says at which places in it the team's own are."""

    async def __call__(self, cursor: str | None, limit: int) -> tuple[_Page, list[int]]: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """What page of its own LoRAs a team asks for."""

    limit: int
    include_archived: bool
    cursor: str | None

    @classmethod
    def parse(cls, query: QueryParams, who: Caller, secrets: tuple[bytes, ...]) -> Asked:
        """Read a query. Raises Invalid."""
        faults: dict[str, list[str]] = {}
        limit = read_limit(query, faults, default=DEFAULT_LIMIT, largest=LARGEST_PAGE)
        archived = query.get("includeArchived", "false")
        if archived not in ("true", "false"):
            faults["includeArchived"] = ["Expected true or false"]
        cursor = unseal(secrets, who.team_id, query["cursor"]) if "cursor" in query else None
        if "cursor" in query and cursor is None:
            faults["cursor"] = ["Not a cursor of this list"]
        if faults:
            raise Invalid(details=faults)
        return cls(limit, archived == "true", cursor)


async def list_own_loras(request: Request, who: Caller) -> Response:
    """One page of a team's own, in the upstream's shape. A refusal of the upstream's is passed on."""
    ctx = context(request)
    secrets = await ctx.webhook_secrets()
    asked = Asked.parse(request.query_params, who, secrets)
    async with ctx.db.reading() as connection:
        if not await has_any(connection, ctx.account, "lora", who.team_id):
            return json_response({"items": [], "nextCursor": None})
    try:
        items, cursor = await _pick(_pages(request, who, asked), asked.cursor, asked.limit)
    except Strange as strange:
        if strange.answer.status < 400:
            raise BadGateway("The upstream's answer makes no sense") from None
        return strange.answer.response()
    return json_response({"items": items, "nextCursor": cursor and seal(secrets[0], who.team_id, cursor)})


async def _pick(pages: Pages, cursor: str | None, limit: int) -> tuple[list[msgspec.Raw], str | None]:
    """So many of the team's own, or fewer, and where the upstream's list goes on."""
    found: list[msgspec.Raw] = []
    for _ in range(MOST_PAGES):
        page, own = await pages(cursor, LARGEST_PAGE)
        while len(own) > limit - len(found):
            # Only the upstream knows the cursor of a place within a page: have it end there.
            page, own = await pages(cursor, own[limit - len(found) - 1] + 1)
        found += [page.items[place] for place in own]
        cursor = page.next_cursor
        if cursor is None or len(found) == limit:
            break
    return found, cursor


def _pages(request: Request, who: Caller, asked: Asked) -> Pages:
    ctx = context(request)

    async def get(cursor: str | None, limit: int) -> tuple[_Page, list[int]]:
        query = {"limit": str(limit), "includeArchived": str(asked.include_archived).lower()}
        if cursor is not None:
            query["cursor"] = cursor
        answer = await ask(request, who, passing_of(request, f"/v2/loras?{urlencode(query)}"))
        try:
            page = msgspec.json.decode(answer.content, type=_Page)
            ids = [msgspec.json.decode(item, type=_Named).id.lower() for item in page.items]
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Strange(answer) from None
        async with ctx.db.reading() as connection:
            own = await list_own(connection, ctx.account, "lora", who.team_id, ids)
        return page, [place for place, lora_id in enumerate(ids) if lora_id in own]

    return get
