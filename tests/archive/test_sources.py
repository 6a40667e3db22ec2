"""The source of result files misbehaves as it is told, and in no other way."""

from __future__ import annotations

import asyncio
import hashlib
import io
import wave
from collections.abc import AsyncIterator

import httpx
import pytest
from PIL import Image

from tests import media
from tests.sources import Gate, Source, sourcing

PICTURE = media.png(64, 64)


@pytest.fixture
async def source() -> AsyncIterator[Source]:
    async with sourcing() as source:
        yield source


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        yield client


async def read_until_it_breaks(client: httpx.AsyncClient, url: str) -> tuple[bytes, httpx.TransportError]:
    """What arrives of a file, and what the client says when no more does."""
    read = b""
    async with client.stream("GET", url) as answer:
        assert int(answer.headers["Content-Length"]) == len(PICTURE)
        try:
            async for piece in answer.aiter_raw():
                read += piece
        except httpx.TransportError as error:
            return read, error
    raise AssertionError("it did not break")


async def test_a_file_is_served_with_its_type_length_and_tag(source: Source, client: httpx.AsyncClient) -> None:
    url = source.serve("0.png", PICTURE, content_type="image/png", headers={"X-Of": "ours"})
    answer = await client.get(url + "?expires=1")
    assert (answer.status_code, answer.content) == (200, PICTURE)
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["Content-Length"] == str(len(PICTURE))
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["X-Of"] == "ours"
    head = await client.head(url)
    assert (head.headers["Content-Length"], head.headers["ETag"]) == (str(len(PICTURE)), answer.headers["ETag"])
    (asked, headed) = source.requests
    assert (asked.method, asked.path, asked.range, asked.sent) == ("GET", "/0.png?expires=1", None, len(PICTURE))
    assert (headed.method, headed.sent) == ("HEAD", 0)


async def test_a_file_that_was_removed_is_not_found(source: Source, client: httpx.AsyncClient) -> None:
    url = source.serve("0.png", PICTURE)
    assert (await client.get(url)).status_code == 200
    source.remove("0.png")
    assert (await client.get(url)).status_code == 404
    assert [asked.path for asked in source.requests] == ["/0.png", "/0.png"]


async def test_failures_come_first_and_then_the_file(source: Source, client: httpx.AsyncClient) -> None:
    url = source.serve("0.png", PICTURE, fail_times=2)
    always = source.serve("1.png", PICTURE, status=404)
    assert [(await client.get(url)).status_code for _ in range(4)] == [503, 503, 200, 200]
    assert [(await client.get(always)).status_code for _ in range(2)] == [404, 404]
    assert len(source.asked("0.png")) == 4


async def test_a_truncated_file_ends_early_and_can_be_resumed(source: Source, client: httpx.AsyncClient) -> None:
    url = source.serve("0.png", PICTURE, truncate_at=1000, fail_times=1)
    read, error = await read_until_it_breaks(client, url)
    assert read == PICTURE[:1000]
    assert isinstance(error, httpx.RemoteProtocolError)
    rest = await client.get(url, headers={"Range": "bytes=1000-"})
    assert (rest.status_code, read + rest.content) == (206, PICTURE)
    assert [(asked.range, asked.sent) for asked in source.requests] == [
        (None, 1000),
        ("bytes=1000-", len(PICTURE) - 1000),
    ]


async def test_a_connection_is_reset_in_the_middle(source: Source, client: httpx.AsyncClient) -> None:
    url = source.serve("0.png", PICTURE, reset_at=1000)
    read, error = await read_until_it_breaks(client, url)
    assert PICTURE[:1000].startswith(read)
    assert isinstance(error, httpx.ReadError)


async def test_a_gate_holds_a_file_until_it_is_released(source: Source, client: httpx.AsyncClient) -> None:
    gate = Gate(after=1000)
    async with client.stream("GET", source.serve("0.png", PICTURE, gate=gate)) as answer:
        pieces = answer.aiter_raw()
        assert await anext(pieces) == PICTURE[:1000]
        await gate.reached.wait()
        assert [(asked.sent, asked.ended) for asked in source.requests] == [(1000, False)]
        gate.released.set()
        assert b"".join([piece async for piece in pieces]) == PICTURE[1000:]


async def test_a_gate_at_the_beginning_holds_after_the_head(source: Source, client: httpx.AsyncClient) -> None:
    gate = Gate()
    async with client.stream("GET", source.serve("0.png", PICTURE, gate=gate)) as answer:
        assert answer.status_code == 200
        await gate.reached.wait()
        assert source.requests[0].sent == 0
        gate.released.set()
        assert await answer.aread() == PICTURE


async def test_a_slow_file_comes_in_pieces(source: Source, client: httpx.AsyncClient) -> None:
    url = source.serve("0.png", PICTURE, piece_bytes=len(PICTURE) // 4 + 1, pause_seconds=0.02)
    began = asyncio.get_running_loop().time()
    async with client.stream("GET", url) as answer:
        pieces = [piece async for piece in answer.aiter_raw()]
    assert (len(pieces), b"".join(pieces)) == (4, PICTURE)
    assert asyncio.get_running_loop().time() - began >= 0.06


async def test_a_redirect_leads_elsewhere(source: Source, client: httpx.AsyncClient) -> None:
    url = source.serve("old.png", redirect_to=source.serve("new.png", PICTURE))
    assert (await client.get(url)).status_code == 302
    assert (await client.get(url, follow_redirects=True)).content == PICTURE


@pytest.mark.parametrize(
    ("asked", "said", "expected"),
    [
        ("bytes=10-19", "bytes 10-19/{size}", PICTURE[10:20]),
        ("bytes=10-999999999", "bytes 10-{last}/{size}", PICTURE[10:]),
        ("bytes=-5", "bytes {from_end}-{last}/{size}", PICTURE[-5:]),
        ("bytes=0-", "bytes 0-{last}/{size}", PICTURE),
    ],
)
async def test_ranges_are_served(
    source: Source, client: httpx.AsyncClient, asked: str, said: str, expected: bytes
) -> None:
    answer = await client.get(source.serve("0.png", PICTURE), headers={"Range": asked})
    size = len(PICTURE)
    assert (answer.status_code, answer.content) == (206, expected)
    assert answer.headers["Content-Range"] == said.format(size=size, last=size - 1, from_end=size - 5)


async def test_a_range_past_the_end_is_refused(source: Source, client: httpx.AsyncClient) -> None:
    answer = await client.get(source.serve("0.png", PICTURE), headers={"Range": f"bytes={len(PICTURE)}-"})
    assert (answer.status_code, answer.headers["Content-Range"]) == (416, f"bytes */{len(PICTURE)}")


async def test_a_range_of_another_version_is_the_whole_file(source: Source, client: httpx.AsyncClient) -> None:
    url = source.serve("0.png", PICTURE)
    tag = (await client.get(url)).headers["ETag"]
    ranged = {"Range": "bytes=10-", "If-Range": tag}
    assert (await client.get(url, headers=ranged)).status_code == 206
    source.serve("0.png", PICTURE + b"!")
    answer = await client.get(url, headers=ranged)
    assert (answer.status_code, answer.content) == (200, PICTURE + b"!")


async def test_a_source_without_ranges_sends_everything(source: Source, client: httpx.AsyncClient) -> None:
    answer = await client.get(source.serve("0.png", PICTURE, ranges=False), headers={"Range": "bytes=10-"})
    assert (answer.status_code, answer.content) == (200, PICTURE)
    assert "Accept-Ranges" not in answer.headers


async def test_a_length_is_declared_that_is_not_so(source: Source, client: httpx.AsyncClient) -> None:
    url = source.serve("0.png", PICTURE, declared_length=10**12)
    async with client.stream("GET", url) as answer:
        assert answer.headers["Content-Length"] == str(10**12)
        with pytest.raises(httpx.RemoteProtocolError):
            await answer.aread()


async def test_a_chunked_file_declares_no_length(source: Source, client: httpx.AsyncClient) -> None:
    answer = await client.get(source.serve("0.png", PICTURE, chunked=True))
    assert (answer.headers["Transfer-Encoding"], answer.content) == ("chunked", PICTURE)
    assert "Content-Length" not in answer.headers


async def test_an_endless_file_goes_on_until_nobody_reads_it(source: Source, client: httpx.AsyncClient) -> None:
    read = 0
    async with client.stream("GET", source.serve("0.png", PICTURE, endless=True)) as answer:
        assert "Content-Length" not in answer.headers
        async for piece in answer.aiter_raw():
            read += len(piece)
            if read > 50 * len(PICTURE):
                break
    async with asyncio.timeout(30):
        while not source.requests[0].ended:
            await asyncio.sleep(0.01)
    assert source.requests[0].sent >= read


async def test_a_long_film_is_served_without_being_held(source: Source, client: httpx.AsyncClient) -> None:
    film = media.Film(20_000_001)
    digest = hashlib.sha256()
    url = source.serve("0.mp4", film, content_type="video/mp4")
    async with client.stream("GET", url) as answer:
        assert answer.headers["Content-Length"] == str(film.size)
        async for piece in answer.aiter_raw():
            digest.update(piece)
    assert digest.hexdigest() == film.sha256
    tail = await client.get(url, headers={"Range": "bytes=19000000-"})
    assert tail.content == film.part(19_000_000, film.size)


async def test_requests_can_be_waited_for(source: Source, client: httpx.AsyncClient) -> None:
    url = source.serve("0.png", PICTURE)
    waiting = asyncio.create_task(source.wait(2))
    await asyncio.gather(client.get(url), client.get(url))
    assert len(await waiting) == 2


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_pictures_are_real_and_told_apart_by_their_seed(kind: str) -> None:
    make = getattr(media, kind)
    picture = Image.open(io.BytesIO(make(20, 10)))
    picture.load()
    assert (picture.format, picture.size) == (kind.upper(), (20, 10))
    assert make(seed=1) == make(seed=1) != make(seed=2)


def test_a_sound_is_as_long_as_asked() -> None:
    with wave.open(io.BytesIO(media.wav(0.5))) as sound:
        assert sound.getnframes() / sound.getframerate() == 0.5


def test_a_film_is_what_it_says_it_is() -> None:
    film = media.Film(200_000)
    whole = film.part(0, film.size)
    assert (len(whole), whole[4:12]) == (200_000, b"ftypisom")
    assert hashlib.sha256(whole).hexdigest() == film.sha256
    assert b"".join(film.part(at, at + 777) for at in range(0, film.size, 777)) == whole
