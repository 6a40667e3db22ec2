"""Kept files for whoever is signed in: the cookie of a session is for the pages below `/ops` alone."""

from __future__ import annotations

from starlette.responses import Response

from app.archive.queries.reading import find_file
from app.archive.serve import serve_file, serve_thumbnail
from app.dashboard.visits import Visit
from app.db import AnyRow
from app.errors import NotFound
from app.paging import parse_id


async def show_file(visit: Visit) -> Response:
    """A kept file, or the part of it that is asked for, as `GET /v1/files/{file_id}` has it."""
    request = visit.request
    return await serve_file(
        visit.ctx,
        await _find(visit),
        request.headers,
        as_attachment=request.query_params.get("download") == "true",
        head_only=request.method == "HEAD",
    )


async def show_thumbnail(visit: Visit) -> Response:
    """A small picture of a kept picture."""
    return await serve_thumbnail(visit.ctx, await _find(visit), visit.request.headers)


async def _find(visit: Visit) -> AnyRow:
    file_id = parse_id(visit.request.path_params["file_id"], "File")
    async with visit.ctx.db.reading() as connection:
        file = await find_file(connection, visit.caller.only_team, file_id)
    if file is None:
        raise NotFound("File not found")
    return file
