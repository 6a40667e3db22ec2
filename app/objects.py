"""Objects: bytes under a name, in a folder or in a bucket. Whole or not at all: what is written half is never seen.

Names are ours alone and used once, so an object never changes.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

from obstore import sign_async
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, LocalStore, S3Store, from_url

from app.config import Settings

PART: Final = 5 * 2**20
"""Bytes in a part of an upload, the least that S3 takes. Two parts are under way at once."""

PIECE: Final = 2**20
"""Bytes that are read at once: a slow reader holds so many, and no connection to the storage while it reads them."""

LONGEST_ERROR: Final = 300
LAST_WORDS_SECONDS: Final = 0.05


class StorageFailed(Exception):
    """The storage did not do what it was asked to; the message is one line that says what it said."""


class ObjectMissing(StorageFailed):
    """There is no object of this name."""


_Store = LocalStore | S3Store | GCSStore | AzureStore

_RETRIES: Final[Any] = {"max_retries": 2, "retry_timeout": timedelta(seconds=15)}
"""A call's own. Whoever stores tries again later, and whoever reads should hear soon."""


class Objects:
    """One storage. Cloud credentials and endpoints come from the environment variables that their vendors use."""

    def __init__(self, url: str) -> None:
        """Raises nothing for a storage that is away: a folder is made by the first object in it."""
        self.url = url
        self._folder = Path(unquote(urlsplit(url).path)) if url.startswith("file:") else None
        self._store: _Store | None = None

    async def put(self, name: str, pieces: AsyncIterator[bytes], size: Callable[[], int], *, content_type: str) -> None:
        """Store what an iterator yields, in bounded memory; `size` tells afterwards how many bytes that must have been.

        The type is what the storage's own URL says of the object.

        An error of the iterator's own passes through, and then there is no such object. To break an upload off, have the
        iterator raise: one that is cancelled leaves its parts in the bucket for ever. Raises StorageFailed, also where the
        object is there and may not be whole, or not on the disk: it is for the caller to remove.
        """
        with _failures():
            await self._opened().put_async(
                name,
                pieces,
                attributes=self._attributes(content_type),
                use_multipart=True,
                chunk_size=PART,
                max_concurrency=2,
            )
        if (found := await self.size(name)) != size():
            raise StorageFailed(f"{found:,} bytes arrived of {size():,}")
        if self._folder is not None:
            with _failures():
                await asyncio.to_thread(self._make_durable, self._folder / name)

    async def put_bytes(self, name: str, data: bytes, *, content_type: str = "application/octet-stream") -> None:
        """Store some bytes at once, which are no loss should the power fail just then. Raises StorageFailed."""
        with _failures():
            await self._opened().put_async(name, data, attributes=self._attributes(content_type), use_multipart=False)

    async def size(self, name: str) -> int:
        """Bytes in an object. Raises ObjectMissing, StorageFailed."""
        with _failures():
            return (await self._opened().head_async(name))["size"]

    async def get(self, name: str, start: int, end: int) -> bytes:
        """The bytes from `start` up to but without `end`. Raises ObjectMissing, StorageFailed."""
        if start == end:
            return b""
        with _failures():
            return bytes(await self._opened().get_range_async(name, start=start, end=end))

    async def pieces(self, name: str, start: int, end: int) -> AsyncGenerator[bytes]:
        """The same, piece by piece. Raises ObjectMissing, StorageFailed."""
        while start < end:
            piece = await self.get(name, start, min(start + PIECE, end))
            if not piece:
                raise StorageFailed(f"the object ends at {start:,}")
            start += len(piece)
            yield piece

    async def remove(self, names: Sequence[str]) -> None:
        """Remove objects, and what an upload into the folder left of them; one that is not there is no fault.

        Raises StorageFailed.
        """
        with _failures():
            store = self._opened()
            for name in names:
                with suppress(FileNotFoundError):
                    await store.delete_async(name)
                if self._folder is not None:
                    await asyncio.to_thread(_remove_leftovers, self._folder / name)

    async def list(self, folder: str = "") -> AsyncIterator[list[tuple[str, int]]]:
        """Every object's name and size, a page at a time, and what killed uploads left of one. Raises StorageFailed.

        Parts of uploads into a bucket are not listed: a rule of the bucket's own has to remove them.
        """
        with _failures():
            async for page in self._opened().list_async(folder or None):
                yield [(found["path"], found["size"]) for found in page]
        if self._folder is not None:
            with _failures():
                leftovers = await asyncio.to_thread(_list_leftovers, self._folder, folder)
            yield leftovers

    async def signed_url(self, name: str, good_for: timedelta) -> str | None:
        """A URL by which anybody may read an object for so long; None: this storage has none. Raises StorageFailed."""
        with _failures():
            store = self._opened()
            return None if isinstance(store, LocalStore) else await sign_async(store, "GET", name, good_for)

    def _make_durable(self, path: Path) -> None:
        """Have a file on the disk, and the folders on the way to it: a record of it may be committed right after.

        Every time, because any process may have removed a folder that was empty. What is on the disk already takes no time.
        """
        assert self._folder is not None
        _flush(path)
        for folder in path.relative_to(self._folder).parents:
            _flush(self._folder / folder)

    def _attributes(self, content_type: str) -> Any:
        """What a bucket is told of an object; a folder takes nothing of the kind."""
        return None if self._folder is not None else {"Content-Type": content_type}

    def _opened(self) -> _Store:
        if self._store is None:
            # The library's threads hand over results by way of Python. One that is still at it when the interpreter shuts
            # down is ended in the middle of Rust, which aborts the process (PyO3/pyo3-async-runtimes, issue 40).
            atexit.register(time.sleep, LAST_WORDS_SECONDS)
            if self._folder is not None:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # the affair of nobody else on this machine
                self._store = LocalStore(prefix=self._folder)
            else:
                self._store = cast("_Store", from_url(self.url, retry_config=_RETRIES))
        return self._store


def open_objects(settings: Settings) -> Objects | None:
    """The storage that the settings name; None: nothing is kept."""
    if settings.archive_url == "off":
        return None
    return Objects(settings.archive_url or (settings.data_dir.absolute() / "files").as_uri())


@contextmanager
def _failures() -> Iterator[None]:
    """What the storage's library raises, as one line; the rest of what it says is about its own insides."""
    try:
        yield
    except FileNotFoundError as error:
        raise ObjectMissing(_line(error)) from None
    except (BaseError, OSError) as error:
        raise StorageFailed(_line(error)) from None


def _line(error: Exception) -> str:
    return " ".join(str(error).partition("\n\n")[0].split())[:LONGEST_ERROR]


def _flush(path: Path) -> None:
    """Have the system write a file, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _list_leftovers(root: Path, folder: str) -> list[tuple[str, int]]:
    """The names of objects that an upload was begun of and not ended, as far as it was not cleared away.

    Uploads go on meanwhile: what is not there any more when it is looked at is none.
    """
    found: list[tuple[str, int]] = []
    for parent, _, names in os.walk(root / folder):
        for path in (Path(parent, name) for name in names if _LEFTOVER.search(name)):
            with suppress(FileNotFoundError):
                found.append((_LEFTOVER.sub("", path.relative_to(root).as_posix()), path.stat().st_size))
    return found


_LEFTOVER: Final = re.compile(r"#\d+$")


def _remove_leftovers(path: Path) -> None:
    """Remove what a process that was killed had written of an object: the library writes `name#1` and renames it."""
    for leftover in path.parent.glob(f"{path.name}#*"):
        leftover.unlink(missing_ok=True)
    with suppress(OSError):
        path.parent.rmdir()  # where it is empty now
