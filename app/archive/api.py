"""The routes of kept files."""

from __future__ import annotations

from datetime import timedelta
from typing import Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from app.archive.links import is_signed, links
from app.archive.queries.reading import find_file
from app.archive.serve import serve_file, serve_thumbnail
from app.clock import timestamp
from app.db import AnyRow
from app.errors import Invalid, NotFound
from app.http import caller, context, json_response, read_object
from app.paging import parse_id

LARGEST_BODY: Final = 1024
DEFAULT_LINK_SECONDS: Final = 24 * 3600
LONGEST_LINK_SECONDS: Final = 30 * 24 * 3600


async def get_file(request: Request) -> Response:
    """Read a kept file of one of your team's jobs, or with the scope `ops` of any team's.

    A signed link needs no key. `Range`, `If-Range` and `If-None-Match` are heeded; the `ETag` is the file's SHA-256.
    With `?download=true` browsers save it. Where FRAMEHOOK_ARCHIVE_SERVE is `redirect` the answer to a GET is a 307 to the
    storage, which shows a file as what it is and heeds no `download`.
    """
    file = await _find(request)
    as_attachment = request.query_params.get("download") == "true"
    head_only = request.method == "HEAD"
    return await serve_file(context(request), file, request.headers, as_attachment=as_attachment, head_only=head_only)


async def get_thumbnail(request: Request) -> Response:
    """Read a small picture (WebP, at most 320 pixels a side) of a kept picture; a signed link to it opens this too.

    404: the file has none, since it is no picture or one that is too large to decode.
    """
    return await serve_thumbnail(context(request), await _find(request), request.headers)


async def create_link(request: Request) -> Response:
    """Make a link to a file that needs no key, to be handed to a browser or a customer: `{"expiresIn": SECONDS}`.

    The default is a day, the longest thirty days. A link cannot be taken back before its end, but with the file.
    """
    who = await caller(request, "read", "ops")
    ctx = context(request)
    given = (await read_object(request, largest=LARGEST_BODY)).get("expiresIn", DEFAULT_LINK_SECONDS)
    if not isinstance(given, int) or isinstance(given, bool) or not 0 < given <= LONGEST_LINK_SECONDS:
        raise Invalid(details={"expiresIn": [f"Expected seconds from 1 to {LONGEST_LINK_SECONDS:,}"]})
    file = await _read(request, who.only_team)
    if file.status != "stored":
        raise NotFound("File not found")
    expires_at = (ctx.now() + timedelta(seconds=given)).replace(microsecond=0)
    url = (await links(ctx)).signed(file.id, expires_at)
    return json_response({"url": url, "expiresAt": timestamp(expires_at)}, status=201)


async def _find(request: Request) -> AnyRow:
    """The file that is asked for, by a signed link or else by a key of its team. Raises NotFound, Unauthenticated."""
    ctx = context(request)
    if "signature" not in request.query_params:
        return await _read(request, (await caller(request, "read", "ops")).only_team)
    if not is_signed(request.query_params, _file_id(request), await ctx.webhook_secrets(), ctx.now()):
        raise NotFound("The link is not ours, or its time is over")
    return await _read(request, None)


async def _read(request: Request, only_team: UUID | None) -> AnyRow:
    async with context(request).db.reading() as connection:
        file = await find_file(connection, only_team, _file_id(request))
    if file is None:
        raise NotFound("File not found")
    return file


def _file_id(request: Request) -> UUID:
    return parse_id(request.path_params["file_id"], "File")
