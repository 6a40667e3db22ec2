"""Places keep files as obstore puts them there, refuse them while told to, and show what is left of a failure."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
import pytest
from obstore.exceptions import BaseError
from obstore.store import from_url

from app import objects
from tests.harness import eventually
from tests.media import Film
from tests.objects import PAGE_KEYS, Place, S3Place

if TYPE_CHECKING:
    from obstore.store import ObjectStore, RetryConfig

FILM = Film(12_000_000)


def store_of(place: Place) -> ObjectStore:
    """A store as a service would have it, but soon at its wits' end."""
    retries: RetryConfig = {
        "max_retries": 1,
        "retry_timeout": timedelta(seconds=60),
        "backoff": {"init_backoff": timedelta(milliseconds=10), "max_backoff": timedelta(milliseconds=20), "base": 2},
    }
    if place.url.startswith("file:"):
        return from_url(place.url, mkdir=True)
    return from_url(place.url, retry_config=retries)


async def pieces_of(film: Film, *, until: int | None = None) -> AsyncIterator[bytes]:
    """A film in pieces of 64 KiB; past `until` it breaks."""
    for at in range(0, film.size, 65_536):
        if until is not None and at >= until:
            raise ConnectionError("the source broke")
        yield film.part(at, at + 65_536)


async def held(film: Film, reached: asyncio.Event, released: asyncio.Event) -> AsyncIterator[bytes]:
    """A film that waits half way, when a part of its upload is complete, until it is released."""
    half = film.size // 2
    yield film.part(0, half)
    reached.set()
    await released.wait()
    yield film.part(half, film.size)


async def put(place: Place, name: str, data: bytes | AsyncIterator[bytes]) -> None:
    """Put a file there as a service would."""
    await obstore.put_async(store_of(place), name, data)


async def test_a_long_file_is_streamed_to_a_place_and_read_in_ranges(place: Place) -> None:
    store = store_of(place)
    await obstore.put_async(store, "acme/2026/0.mp4", pieces_of(FILM))
    assert (await obstore.head_async(store, "acme/2026/0.mp4"))["size"] == FILM.size
    part = await obstore.get_range_async(store, "acme/2026/0.mp4", start=11_000_000, length=100_000)
    assert bytes(part) == FILM.part(11_000_000, 11_100_000)
    assert await place.names() == ["acme/2026/0.mp4"]
    assert hashlib.sha256(await place.read("acme/2026/0.mp4")).hexdigest() == FILM.sha256
    whole = await obstore.get_async(store, "acme/2026/0.mp4")
    assert hashlib.sha256(await whole.bytes_async()).hexdigest() == FILM.sha256
    await obstore.delete_async(store, "acme/2026/0.mp4")
    assert (await place.names(), await place.unfinished()) == ([], [])


async def test_a_place_can_be_damaged_behind_the_services_back(place: Place) -> None:
    await put(place, "a/b.png", b"whole")
    await place.write("a/b.png", b"hurt")
    await place.write("a/ü &+%.png", b"odd")
    assert bytes(await (await obstore.get_async(store_of(place), "a/b.png")).bytes_async()) == b"hurt"
    assert await place.names() == ["a/b.png", "a/ü &+%.png"]
    assert await place.read("a/ü &+%.png") == b"odd"
    await place.remove("a/b.png")
    assert await place.names() == ["a/ü &+%.png"]
    with pytest.raises(FileNotFoundError):
        await place.read("a/b.png")
    with pytest.raises(FileNotFoundError):
        await place.remove("a/b.png")
    with pytest.raises(FileNotFoundError):
        await obstore.head_async(store_of(place), "a/b.png")


async def test_a_place_that_refuses_has_everything_afterwards(place: Place) -> None:
    await put(place, "a.png", b"kept")
    store = store_of(place)
    with place.refusing():
        assert await place.names() == ["a.png"]
        for data in (b"small", pieces_of(FILM)):
            with pytest.raises(BaseError):
                await obstore.put_async(store, "b.png", data)
        with pytest.raises((BaseError, OSError)):
            await obstore.get_async(store, "a.png")
    assert (await place.names(), await place.unfinished()) == (["a.png"], [])
    assert await place.read("a.png") == b"kept"
    await obstore.put_async(store, "b.png", pieces_of(FILM))
    assert await place.names() == ["a.png", "b.png"]


async def test_a_place_can_refuse_before_anything_was_kept(place: Place) -> None:
    with place.refusing(), pytest.raises((BaseError, OSError)):
        await put(place, "a.png", b"small")
    assert await place.names() == []
    await put(place, "a.png", b"small")
    assert await place.names() == ["a.png"]


async def test_a_file_whose_source_breaks_leaves_nothing(place: Place) -> None:
    await put(place, "kept.png", b"kept")
    for until in (0, 1, 6_000_000, 11_000_000):
        with pytest.raises(ConnectionError, match="the source broke"):
            await put(place, "a.mp4", pieces_of(FILM, until=until))
        assert (await place.names(), await place.unfinished()) == (["kept.png"], [])


async def test_a_file_under_way_is_seen_as_unfinished(place: Place) -> None:
    reached, released = asyncio.Event(), asyncio.Event()
    putting = asyncio.create_task(put(place, "a.mp4", held(FILM, reached, released)))
    await reached.wait()
    under_way = await eventually(place.unfinished)
    assert under_way == (["a.mp4#1"] if place.url.startswith("file:") else ["a.mp4"])
    released.set()
    await putting
    assert (await place.names(), await place.unfinished()) == (["a.mp4"], [])


async def test_what_a_refused_service_could_not_clear_away_is_seen(place: Place) -> None:
    reached, released = asyncio.Event(), asyncio.Event()
    putting = asyncio.create_task(put(place, "a.mp4", held(FILM, reached, released)))
    await reached.wait()
    await eventually(place.unfinished)
    with place.refusing():
        released.set()
        with pytest.raises(BaseError):
            await putting
    assert len(await place.unfinished()) == 1


async def test_connections_to_s3_are_cut(s3: S3Place, caplog: pytest.LogCaptureFixture) -> None:
    await put(s3, "a.png", b"kept")
    reached, released = asyncio.Event(), asyncio.Event()
    putting = asyncio.create_task(put(s3, "b.mp4", held(FILM, reached, released)))
    await reached.wait()
    with s3.refusing("cut"):
        released.set()
        with pytest.raises(BaseError, match="error sending request"):
            await putting
        with pytest.raises(BaseError, match="error sending request"):
            await obstore.get_async(store_of(s3), "a.png")
    assert await s3.names() == ["a.png"]
    assert not caplog.records


async def test_requests_to_s3_are_counted(s3: S3Place) -> None:
    await put(s3, "a.png", b"small")
    assert s3.proxy.counts == {"PUT": 1}
    await put(s3, "a.mp4", pieces_of(FILM))
    assert s3.proxy.counts == {"PUT": 1 + 3, "POST": 2}
    with s3.refusing(), pytest.raises(BaseError):
        await put(s3, "b.png", b"small")
    assert s3.proxy.refused_count == 2


async def test_a_process_of_its_own_finds_the_place_by_its_environment(place: Place) -> None:
    code = "import obstore.store, sys; obstore.store.from_url(sys.argv[1]).put('a.png', b'from elsewhere')"
    await place.write("b.png", b"so that the folder is there")
    environment = {**os.environ, **place.environment}
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, place.url, env=environment)
    assert await process.wait() == 0
    assert await place.read("a.png") == b"from elsewhere"


async def test_a_listing_of_s3_is_whole(s3: S3Place) -> None:
    names = sorted(f"{number}.png" for number in range(PAGE_KEYS + 5))
    for name in names:
        await s3.write(name, b"")
    assert await s3.names() == names


async def test_a_folder_that_was_removed_and_made_again_is_flushed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removing removes an empty day's folder; the next object makes it again, and its entry must reach the disk."""
    kept = objects.Objects((tmp_path / "files").as_uri())
    flushed: list[Path] = []
    flush = objects._flush

    def note(path: Path) -> None:
        flushed.append(path)
        flush(path)

    monkeypatch.setattr(objects, "_flush", note)

    async def put(name: str) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"abc"

        await kept.put(name, pieces(), lambda: 3, content_type="image/png")

    await put("2026/11/25/a.1")
    await kept.remove(["2026/11/25/a.1"])
    assert not (tmp_path / "files/2026/11/25").exists()
    flushed.clear()
    await put("2026/11/25/b.1")
    assert tmp_path / "files/2026/11" in flushed


async def test_listing_bears_with_an_upload_that_ends_meanwhile(tmp_path: Path) -> None:
    """`files verify` runs beside a service: `name#1` may be renamed between its listing and its `stat`."""
    kept = objects.Objects((tmp_path / "files").as_uri())
    await kept.put_bytes("2026/11/25/a.1", b"abc")
    (tmp_path / "files/2026/11/25/b.1#1").symlink_to(tmp_path / "gone")  # there when listed, gone when looked at
    assert ("2026/11/25/a.1", 3) in [found async for page in kept.list() for found in page]


async def test_a_disk_that_fails_to_flush_is_the_storages_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = objects.Objects((tmp_path / "files").as_uri())

    def flush(_: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(objects, "_flush", flush)

    async def pieces() -> AsyncIterator[bytes]:
        yield b"abc"

    with pytest.raises(objects.StorageFailed):
        await kept.put("2026/11/25/a.1", pieces(), lambda: 3, content_type="image/png")
