"""Answer with a kept file. What is served is one of a closed list of types, and nobody may take it for another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog
from starlette.responses import RedirectResponse, Response, StreamingResponse

from app.archive.keep import THUMBNAIL_TYPE
from app.archive.media import MEDIA_TYPES
from app.archive.ranges import Part, part_of
from app.context import Context
from app.db import AnyRow
from app.errors import NotFound, Unavailable
from app.objects import ObjectMissing, Objects, StorageFailed

log = structlog.get_logger()

REDIRECT_GOOD_FOR: Final = timedelta(minutes=15)
"""How long the storage's own URL opens a file; a download that has begun by then goes on."""

_EXTENSIONS: Final = {media.content_type: media.extension for media in MEDIA_TYPES}

_HEADERS: Final = {
    "Accept-Ranges": "bytes",
    "Cache-Control": "private, max-age=31536000, immutable",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
}
"""A file never changes, and its bytes are the affair of whoever may read it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What is answered with: an object, and what is said of it."""

    object: str
    size: int
    etag: str
    content_type: str
    file_name: str


async def serve_file(
    ctx: Context, file: AnyRow, headers: Mapping[str, str], *, as_attachment: bool, head_only: bool
) -> Response:
    """The file, or the part of it that the headers ask for, or only what would be said of it. Raises NotFound, Unavailable.

    What would be said is never a redirect: the storage's own URL is sealed for GET alone.
    """
    objects = _objects(ctx, file)
    if ctx.settings.archive_serve == "redirect" and not head_only:
        try:
            url = await objects.signed_url(file.object, REDIRECT_GOOD_FOR)
        except StorageFailed as error:
            raise _unavailable(file, file.object, error) from None
        if url is not None:
            return RedirectResponse(url, status_code=307, headers={"Cache-Control": "no-store"})
    served = Served(
        object=file.object,
        size=file.byte_count,
        etag=f'"{file.sha256.hex()}"',
        content_type=file.content_type,
        file_name=f"{file.id}.{_EXTENSIONS[file.content_type]}",
    )
    if head_only:
        return await _answer_head(objects, file, served, headers, as_attachment=as_attachment)
    return await _answer(objects, file, served, headers, as_attachment=as_attachment)


async def serve_thumbnail(ctx: Context, file: AnyRow, headers: Mapping[str, str]) -> Response:
    """The file's thumbnail. Raises NotFound where it has none, Unavailable."""
    objects = _objects(ctx, file)
    if file.thumbnail is None:
        raise NotFound("This file has no thumbnail")
    try:
        size = await objects.size(file.thumbnail)
    except StorageFailed as error:
        raise _unavailable(file, file.thumbnail, error) from None
    served = Served(
        object=file.thumbnail,
        size=size,
        etag=f'"{file.sha256.hex()}-thumbnail"',
        content_type=THUMBNAIL_TYPE,
        file_name=f"{file.id}-thumbnail.webp",
    )
    return await _answer(objects, file, served, headers, as_attachment=False)


def _objects(ctx: Context, file: AnyRow) -> Objects:
    if file.status != "stored":
        raise NotFound(_UNSERVED.get(file.status, "File not found"))
    if ctx.objects is None:
        raise NotFound("The archive is off: FRAMEHOOK_ARCHIVE_URL")
    return ctx.objects


_UNSERVED: Final = {
    "pending": "The file is not kept yet",
    "failed": "The file could not be kept",
    "deleted": "The file was deleted",
}


async def _answer_head(
    objects: Objects, file: AnyRow, served: Served, headers: Mapping[str, str], *, as_attachment: bool
) -> Response:
    """What a GET of the whole would say, without reading it; ranges are an affair of GET alone (RFC 9110, 14.2)."""
    part = part_of({"if-none-match": headers.get("if-none-match", "")}, served.size, served.etag)
    said = _said_of(served, as_attachment=as_attachment)
    if part.status == 304:
        return Response(status_code=304, headers=said)
    try:
        await objects.size(served.object)
    except StorageFailed as error:
        raise _unavailable(file, served.object, error) from None
    return Response(headers=said | {"Content-Length": str(served.size)}, media_type=served.content_type)


async def _answer(
    objects: Objects, file: AnyRow, served: Served, headers: Mapping[str, str], *, as_attachment: bool
) -> Response:
    part = part_of(headers, served.size, served.etag)
    said = _said_of(served, as_attachment=as_attachment)
    if part.status == 304:
        return Response(status_code=304, headers=said)
    if part.status == 416:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{served.size}"})
    if part.status == 206:
        said["Content-Range"] = f"bytes {part.start}-{part.end - 1}/{served.size}"
    said["Content-Length"] = str(part.end - part.start)
    body = await _begun(objects, file, served, part)
    return StreamingResponse(body, part.status, said, media_type=served.content_type)


async def _begun(objects: Objects, file: AnyRow, served: Served, part: Part) -> AsyncIterator[bytes]:
    """The bytes, of which the first were read already: a storage that is away shows before anything is answered."""
    pieces = objects.pieces(served.object, part.start, part.end)
    try:
        first = await anext(pieces, b"")
    except StorageFailed as error:
        raise _unavailable(file, served.object, error) from None

    async def body() -> AsyncIterator[bytes]:
        yield first
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece

    return body()


def _said_of(served: Served, *, as_attachment: bool) -> dict[str, str]:
    disposition = f'{"attachment" if as_attachment else "inline"}; filename="{served.file_name}"'
    return _HEADERS | {"ETag": served.etag, "Content-Disposition": disposition}


def _unavailable(file: AnyRow, name: str, error: StorageFailed) -> NotFound | Unavailable:
    """The answer where the storage does not do its part; that it has lost a file is worth an operator's attention."""
    if isinstance(error, ObjectMissing):
        log.error("file.missing", file=str(file.id), object=name)
        return NotFound("The file is missing from the archive")
    log.warning("storage.unavailable", file=str(file.id), error=str(error))
    return Unavailable("The storage is unavailable", retry_after_seconds=5)
