"""Keep one file: from its source into the storage, and a look at it. What became of it is for the caller to record."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final
from uuid import UUID

import structlog

from app import modest
from app.archive import pictures
from app.archive.fetch import Fetch, TooLarge, TooSlow, Unfit
from app.archive.pictures import Damaged, Look
from app.context import Context
from app.objects import Objects, StorageFailed
from app.outbound.download import CallFailed
from app.targets import TargetRefused

log = structlog.get_logger()

LARGEST_PICTURE: Final = 64 * 2**20
"""Bytes of a picture that is looked at: so much memory that takes, once in a process."""

PIECES_AHEAD: Final = 8
"""How many pieces, of at most 256 KiB each, a source may be ahead of the storage."""

BREAK_OFF_SECONDS: Final = 5.0
"""An upload that nobody wants any more has so long to clear away what it has."""

MEGABYTE: Final = 1_000_000

THUMBNAIL_TYPE: Final = "image/webp"

UNSEEN: Final = "not looked at: whoever did so before came to no end"


class Prospect(Enum):
    """What is to be expected of another attempt."""

    GOOD = "what failed may work the next time"
    POOR = "time will hardly change it"
    NONE = "it will fail again"


@dataclass(frozen=True, slots=True)
class Failed:
    """Why a file was not kept this time, in one line."""

    reason: str
    prospect: Prospect = Prospect.GOOD


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A file that is in the storage as a whole. `note` says why there is no thumbnail of a picture."""

    object: str
    thumbnail: str | None
    content_type: str
    byte_count: int
    sha256: bytes
    width: int | None
    height: int | None
    note: str | None


def object_name(file_id: UUID, completed_at: datetime, attempt: int) -> str:
    """What an attempt calls the object: no two attempts ever write the same one."""
    return f"{completed_at:%Y/%m/%d}/{file_id}.{attempt}"


def thumbnail_name(object_: str) -> str:
    """What the thumbnail of an object is called."""
    return f"{object_}.thumbnail"


def file_of(name: str) -> UUID | None:
    """The file that an object or thumbnail of this name is of; None for a name that is not of our making."""
    match = _OUR_NAME.fullmatch(name)
    return UUID(match.group(1)) if match else None


_OUR_NAME: Final = re.compile(
    r"\d{4}/\d\d/\d\d/([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})\.\d+(?:\.thumbnail)?", re.ASCII
)


async def keep(ctx: Context, objects: Objects, url: str, name: str, *, unseen: bool = False) -> Kept | Failed:
    """Fetch a URL into an object. Unless a record of it names the object, what there is of it is the caller's to discard.

    `unseen`: a picture is not looked at.
    """
    fetch = Fetch(ctx.sources, url, largest=ctx.settings.archive_largest_mb * MEGABYTE)
    try:
        await _pour(fetch, objects, name)
        return await _describe(ctx, objects, fetch, name, unseen=unseen)
    except CallFailed as error:
        return Failed(str(error))
    except StorageFailed as error:
        return Failed(f"storage: {error}")
    except (Unfit, TooSlow, Damaged) as error:
        return Failed(str(error), Prospect.POOR)
    except TooLarge as error:
        return Failed(str(error), Prospect.NONE)
    except TargetRefused as error:
        # What a name resolves to, and where a redirect leads, may be otherwise the next time.
        return Failed(str(error), Prospect.NONE if ctx.sources.fault(url) else Prospect.POOR)


async def discard(objects: Objects, names: Sequence[str]) -> None:
    """Remove objects and their thumbnails, which no file's row names; `framehook files verify` finds what that fails for."""
    if not names:
        return
    try:
        await objects.remove([each for name in names for each in (name, thumbnail_name(name))])
    except StorageFailed as error:
        log.info("files.not_removed", names=names, error=str(error))


class _BrokenOff(Exception):
    """Nobody wants this file any more; the upload is to clear away what it has."""


class _Flow:
    """A file on its way from its source to the storage, which the source is a few pieces ahead of."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._queue: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(PIECES_AHEAD)

    async def fill(self) -> None:
        """Read the source to its end."""
        try:
            async with aclosing(self._fetch.pieces()) as pieces:
                async for piece in pieces:
                    await self._queue.put(piece)
        except Exception as error:  # noqa: BLE001 - whatever it is, the upload raises it and so ends
            await self._queue.put(error)
        else:
            await self._queue.put(None)

    async def drain(self, objects: Objects, name: str) -> None:
        """Store it. Nothing is begun before the first piece is there, by which its type is known."""
        first = await self._take()
        assert self._fetch.media is not None

        async def pieces() -> AsyncIterator[bytes]:
            piece = first
            while piece is not None:
                yield piece
                piece = await self._take()

        await objects.put(name, pieces(), lambda: self._fetch.size, content_type=self._fetch.media.content_type)

    async def _take(self) -> bytes | None:
        piece = await self._queue.get()
        if isinstance(piece, Exception):
            raise piece
        return piece

    def break_off(self) -> None:
        """Have `drain` raise, whatever is on its way."""
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(_BrokenOff())


async def _pour(fetch: Fetch, objects: Objects, name: str) -> None:
    """Let a file flow into the storage. The source is read by a task of our own, which is ours to end in any case."""
    flow = _Flow(fetch)
    filling = asyncio.create_task(flow.fill())
    putting = asyncio.create_task(flow.drain(objects, name))
    try:
        await asyncio.shield(putting)
    finally:
        await _end(filling)
        if not putting.done():  # this was cancelled
            flow.break_off()
            await asyncio.wait({putting}, timeout=BREAK_OFF_SECONDS)
            await _end(putting)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _describe(ctx: Context, objects: Objects, fetch: Fetch, name: str, *, unseen: bool) -> Kept:
    """What is known of a file that is in the storage. Raises Damaged where that is how a break in the middle shows.

    Nothing else that happens here costs the file.
    """
    assert fetch.media is not None
    look, note, thumbnail = None, None, None
    if fetch.media in pictures.READABLE and fetch.size <= LARGEST_PICTURE:
        look, note = (None, UNSEEN) if unseen else await _try_to_look(ctx, objects, fetch, name)
    if look is not None and look.thumbnail is not None:
        try:
            await objects.put_bytes(thumbnail_name(name), look.thumbnail, content_type=THUMBNAIL_TYPE)
            thumbnail = thumbnail_name(name)
        except StorageFailed as error:
            note = f"no thumbnail: storage: {error}"
    return Kept(
        object=name,
        thumbnail=thumbnail,
        content_type=fetch.media.content_type,
        byte_count=fetch.size,
        sha256=fetch.sha256,
        width=look.width if look else None,
        height=look.height if look else None,
        note=note,
    )


async def _try_to_look(ctx: Context, objects: Objects, fetch: Fetch, name: str) -> tuple[Look | None, str | None]:
    """Look at a picture that was stored; where that cannot be done, say why."""
    try:
        look = await _look(ctx, objects, name, fetch.size)
    except Damaged as damage:
        # Whoever sends a length, or chunks, has sent all that there is: so it is what the upstream made.
        if not fetch.is_whole:
            raise
        return None, str(damage)
    except StorageFailed as error:
        return None, f"not looked at: storage: {error}"
    except Exception as error:
        log.error("picture.failed", object=name, exc_info=error)
        return None, f"not looked at: {type(error).__name__}"
    return look, look.note


async def _look(ctx: Context, objects: Objects, name: str, size: int) -> Look:
    """Look at what was stored, one picture after another: each takes memory and a processor's time."""
    async with ctx.looking:
        data = await objects.get(name, 0, size)
        return await modest.work(pictures.look, data)
