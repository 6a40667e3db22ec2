"""Kept files as HTTP has it: whole or in part, named by their hashes, to those who may, and never as something to run."""

from __future__ import annotations

import asyncio
import hashlib
import io
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest
import structlog
from PIL import Image
from structlog.testing import LogCapture

from app.archive import serve
from app.objects import PIECE
from tests.archive.stories import Archive, Simulate, archiving, get_anonymously
from tests.harness import eventually, refused
from tests.media import Film, png, wav, webp
from tests.objects import Place, S3Place, folder_place
from tests.sources import Gate, Source

PICTURE = png(40, 30, seed=1)
SIZE = len(PICTURE)


@pytest.fixture
async def file(archive: Archive, source: Source) -> dict[str, Any]:
    """A kept picture, as its job tells of it."""
    (kept,) = await archive.kept(source.serve("a.png", PICTURE))
    return kept


async def test_a_file_is_served_under_its_hash_and_not_to_be_taken_for_a_page(
    archive: Archive, file: dict[str, Any]
) -> None:
    answer = await archive.get(file["url"])
    assert (answer.status_code, answer.content) == (200, PICTURE)
    assert answer.headers["ETag"] == f'"{hashlib.sha256(PICTURE).hexdigest()}"'
    assert answer.headers["Content-Length"] == str(SIZE)
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Disposition"] == f'inline; filename="{file["id"]}.png"'
    assert answer.headers["X-Request-Id"]
    saved = await archive.get(f"{file['url']}?download=true")
    assert saved.headers["Content-Disposition"] == f'attachment; filename="{file["id"]}.png"'
    assert saved.content == PICTURE


async def test_the_name_that_a_browser_saves_a_file_by_is_ours_whatever_the_source_calls_it(
    archive: Archive, source: Source
) -> None:
    hostile = 'x";%0d%0aSet-Cookie:%20a=b;/..%2f..%2fetc/passwd.html?n="'
    disposition = 'attachment; filename="run.exe"'
    url = source.serve("evil", wav(), content_type="text/html", headers={"Content-Disposition": disposition})
    (file,) = await archive.kept(f"{url}?{hostile}")
    answer = await archive.get(file["url"])
    assert answer.headers["Content-Disposition"] == f'inline; filename="{file["id"]}.wav"'
    assert answer.headers["Content-Type"] == "audio/wav"
    assert "set-cookie" not in answer.headers


async def test_a_head_says_what_a_get_would_and_reads_nothing(
    archive: Archive, file: dict[str, Any], place: Place
) -> None:
    whole = await archive.get(file["url"])
    for wanted in ({}, {"Range": "bytes=0-3"}):
        read_before = place.proxy.counts["GET"] if isinstance(place, S3Place) else 0
        head = await archive.service.caller.http.head(file["url"], headers=wanted)
        assert (head.status_code, head.content) == (200, b"")
        own = ("x-request-id", "date")
        assert [item for item in head.headers.items() if item[0] not in own] == [
            item for item in whole.headers.items() if item[0] not in own
        ]
        assert not isinstance(place, S3Place) or place.proxy.counts["GET"] == read_before
    tag = {"If-None-Match": whole.headers["ETag"]}
    assert (await archive.service.caller.http.head(file["url"], headers=tag)).status_code == 304
    (name, _) = await place.names()
    await place.remove(name)
    assert (await archive.service.caller.http.head(file["url"])).status_code == 404


RANGES = {
    "bytes=0-9": (0, 10),
    "bytes=0-0": (0, 1),
    "bytes=10-": (10, SIZE),
    "bytes=-10": (SIZE - 10, SIZE),
    f"bytes={SIZE - 1}-": (SIZE - 1, SIZE),
    f"bytes={SIZE - 1}-{SIZE - 1}": (SIZE - 1, SIZE),
    f"bytes=5-{SIZE + 1000}": (5, SIZE),
    f"bytes=-{SIZE + 1000}": (0, SIZE),
    "bytes=0-": (0, SIZE),
    "BYTES=3-4": (3, 5),
}
UNSATISFIABLE = (f"bytes={SIZE}-", f"bytes={SIZE + 5}-{SIZE + 9}", "bytes=-0")
UNREADABLE = (
    *("bytes=5-4", "bytes=-", "bytes=a-b", "bytes=0", "bytes", "bytes=--1", "bytes=0x1-2", "bytes=+1-2", "items=0-5"),
    *("bytes=0-1,3-4", "bytes=0-1, -1", f"bytes=0-{'9' * 40}", "=", ""),
)


async def test_any_part_of_a_file_can_be_had(archive: Archive, file: dict[str, Any]) -> None:
    for asked, (start, end) in RANGES.items():
        answer = await archive.get(file["url"], Range=asked)
        assert (answer.status_code, answer.content) == (206, PICTURE[start:end]), asked
        assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{SIZE}"
        assert answer.headers["Content-Length"] == str(end - start)
        assert answer.headers["ETag"] == f'"{file["sha256"]}"'


async def test_what_lies_past_the_end_is_no_part_of_a_file(archive: Archive, file: dict[str, Any]) -> None:
    for asked in UNSATISFIABLE:
        answer = await archive.get(file["url"], Range=asked)
        assert (answer.status_code, answer.content) == (416, b""), asked
        assert answer.headers["Content-Range"] == f"bytes */{SIZE}"


async def test_a_range_that_cannot_be_read_or_is_several_gets_the_whole(archive: Archive, file: dict[str, Any]) -> None:
    for asked in UNREADABLE:
        answer = await archive.get(file["url"], Range=asked)
        assert (answer.status_code, answer.content) == (200, PICTURE), asked
        assert "content-range" not in answer.headers


async def test_the_rest_of_another_version_is_not_given(archive: Archive, file: dict[str, Any]) -> None:
    tag = f'"{file["sha256"]}"'
    same = await archive.get(file["url"], Range="bytes=4-", If_Range=tag)
    assert (same.status_code, same.content) == (206, PICTURE[4:])
    for other in (f'"{"0" * 64}"', f"W/{tag}", file["sha256"], "Wed, 21 Oct 2015 07:28:00 GMT"):
        answer = await archive.get(file["url"], Range="bytes=4-", If_Range=other)
        assert (answer.status_code, answer.content) == (200, PICTURE), other


async def test_what_a_caller_has_already_is_not_sent_again(archive: Archive, file: dict[str, Any]) -> None:
    tag = f'"{file["sha256"]}"'
    for known in (tag, f"W/{tag}", f'"x", W/"y" , {tag}', "*", f"{tag},"):
        answer = await archive.get(file["url"], If_None_Match=known, Range="bytes=0-3")
        assert (answer.status_code, answer.content) == (304, b""), known
        assert answer.headers["ETag"] == tag
        assert answer.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    for unknown in ('"x"', file["sha256"], f'"{file["sha256"]}-thumbnail"', "", '"'):
        assert (await archive.get(file["url"], If_None_Match=unknown)).status_code == 200, unknown


async def test_a_file_is_its_teams_and_the_operators(archive: Archive, file: dict[str, Any]) -> None:
    service = archive.service
    stranger, submitter = await service.new_caller("strangers"), await service.new_caller("tests", ("submit",))
    operator, admin = await service.new_caller("ops", ("ops",)), await service.new_caller("admins", ("admin",))
    for path in (file["url"], file["thumbnailUrl"]):
        refused(await stranger.http.get(path), 404)
        refused(await submitter.http.get(path), 403)
        refused(await get_anonymously(path), 401)
        for allowed in (operator, admin):
            assert (await allowed.http.get(path)).status_code == 200


async def test_an_id_of_nothing_is_not_found(archive: Archive, file: dict[str, Any]) -> None:
    odd = ("x", "1", f"{file['id']}0", "%00", "a" * 5000, "..%2f..%2fetc%2fpasswd", "%F0%9F%8C%8A")
    for unknown in (uuid4(), file["id"][:-1], *odd):
        refused(await archive.get(f"/v1/files/{unknown}"), 404)
        refused(await archive.get(f"/v1/files/{unknown}/thumbnail"), 404)
    assert (await archive.get(f"/v1/files/{file['id'].upper()}")).status_code == 200


async def test_a_file_that_is_not_there_is_not_found_and_it_is_said_why(archive: Archive, source: Source) -> None:
    gate = Gate(after=100)
    urls = [
        source.serve("slow.png", PICTURE, gate=gate),
        source.serve("bad.png", PICTURE, declared_length=10**12),
    ]
    job_id = await archive.job({"images": [*urls, source.serve("good.png", PICTURE)]})
    pending, failed, good = await eventually(
        lambda: archive.files(job_id), lambda rows: [row.status for row in rows] == ["pending", "failed", "stored"]
    )
    async with archive.service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql(f"UPDATE files SET status = 'deleted' WHERE id = '{good.id}'")
    for row, word in ((pending, "not kept yet"), (failed, "could not be kept"), (good, "was deleted")):
        for path in (f"/v1/files/{row.id}", f"/v1/files/{row.id}/thumbnail"):
            assert word in refused(await archive.get(path), 404)["error"]
    gate.released.set()
    await archive.settled(job_id)


async def test_an_object_that_somebody_took_away_is_not_found_and_the_operator_hears(
    archive: Archive, file: dict[str, Any], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = LogCapture()
    monkeypatch.setattr(serve, "log", structlog.wrap_logger(None, processors=[lines]))
    names = await place.names()
    for name in names:
        await place.remove(name)
    for path in (file["url"], file["thumbnailUrl"]):
        assert "missing" in refused(await archive.get(path), 404)["error"]
    assert lines.entries == [
        {"event": "file.missing", "log_level": "error", "file": file["id"], "object": name} for name in names
    ]


async def test_storage_that_is_away_is_a_503_and_no_word_of_its_insides(
    archive: Archive, file: dict[str, Any], place: Place
) -> None:
    with place.refusing():
        for method, path in (("GET", file["url"]), ("HEAD", file["url"]), ("GET", file["thumbnailUrl"])):
            answer = await archive.service.caller.http.request(method, path)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
            assert method == "HEAD" or answer.json() == {"error": "The storage is unavailable"}
    assert (await archive.get(file["url"])).content == PICTURE


async def test_storage_that_goes_away_in_the_middle_breaks_the_answer_off(
    archive: Archive, source: Source, place: Place
) -> None:
    """What has come so far must not pass for the whole."""
    film = Film(PIECE * 30)
    (file,) = await archive.kept(source.serve("film.mp4", film))
    async with archive.service.caller.http.stream("GET", file["url"]) as answer:
        assert answer.status_code == 200
        with place.refusing(), pytest.raises(httpx.RemoteProtocolError):
            await answer.aread()


async def test_a_slow_reader_costs_little_memory(archive: Archive, source: Source, place: Place) -> None:
    """Nothing is read from the storage that does not fit on its way to a client that reads nothing."""
    film = Film(PIECE * 20)
    (file,) = await archive.kept(source.serve("film.mp4", film))
    address, loop = urlsplit(archive.service.url), asyncio.get_running_loop()
    read_before = place.proxy.counts["GET"] if isinstance(place, S3Place) else 0
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        slow.setblocking(False)
        await loop.sock_connect(slow, (address.hostname, address.port))
        path = urlsplit(file["url"]).path
        request = (
            f"GET {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {archive.service.caller.key}\r\nConnection: close\r\n\r\n"
        )
        await loop.sock_sendall(slow, request.encode())
        beginning = await loop.sock_recv(slow, 65_536)
        for _ in range(20):  # other requests go through meanwhile, so the service had its chances to read on
            assert (await archive.get("/healthz")).status_code == 200
        if isinstance(place, S3Place):
            # What the system's buffers take besides a piece or two: Linux lets a socket grow to 4 MiB.
            assert place.proxy.counts["GET"] - read_before <= 8
        received = bytearray(beginning)
        async with asyncio.timeout(30):
            while part := await loop.sock_recv(slow, 65_536):
                received += part
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert hashlib.sha256(body).hexdigest() == film.sha256
    assert not isinstance(place, S3Place) or place.proxy.counts["GET"] - read_before == 20


async def test_a_thumbnail_is_a_small_webp_with_a_tag_of_its_own(archive: Archive, source: Source) -> None:
    tall, tiny, sound = await archive.kept(
        source.serve("tall.png", png(200, 800, seed=2)),
        source.serve("tiny.webp", webp(8, 8)),
        source.serve("sound.wav", wav()),
    )
    for file, size in ((tall, (80, 320)), (tiny, (8, 8))):
        answer = await archive.get(file["thumbnailUrl"])
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/webp")
        assert answer.headers["ETag"] == f'"{file["sha256"]}-thumbnail"'
        assert answer.headers["Content-Disposition"] == f'inline; filename="{file["id"]}-thumbnail.webp"'
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        with Image.open(io.BytesIO(answer.content)) as picture:
            assert (picture.format, picture.size) == ("WEBP", size)
        known = await archive.get(file["thumbnailUrl"], If_None_Match=answer.headers["ETag"])
        assert known.status_code == 304
        part = await archive.get(file["thumbnailUrl"], Range="bytes=0-3")
        assert (part.status_code, part.content) == (206, b"RIFF")
    assert "thumbnailUrl" not in sound
    refused(await archive.get(f"{sound['url']}/thumbnail"), 404)


async def test_a_redirect_to_the_storage_gives_the_same_bytes_and_the_type_that_was_seen(
    database_url: str, simulate: Simulate, s3: S3Place, source: Source
) -> None:
    """Whatever its source called it, the storage serves it as what it is, which no browser runs."""
    film = Film(12_000_000)
    async with archiving(database_url, simulate, s3, archive_serve="redirect") as archive:
        picture, movie = await archive.kept(
            source.serve("a.png", PICTURE, content_type="text/html"),
            source.serve("film.mp4", film, content_type="text/html"),
        )
        for file, content_type in ((picture, "image/png"), (movie, "video/mp4")):
            answer = await archive.get(file["url"], Range="bytes=0-9")
            assert (answer.status_code, answer.content) == (307, b"")
            assert answer.headers["Cache-Control"] == "no-store"
            location = answer.headers["Location"]
            assert location.startswith(s3.proxy.url)
            assert "X-Amz-Expires=900" in location
            assert archive.service.caller.key not in location
            stored = await get_anonymously(location)
            assert stored.status_code == 200
            assert hashlib.sha256(stored.content).hexdigest() == file["sha256"]
            assert stored.headers["Content-Type"] == content_type
        small = await archive.get(picture["thumbnailUrl"])
        assert (small.status_code, small.headers["Content-Type"]) == (200, "image/webp")
        # The storage's URL is sealed for GET alone, so what a HEAD asks is answered here.
        head = await archive.service.caller.http.head(picture["url"])
        assert (head.status_code, head.headers["Content-Length"]) == (200, str(SIZE))


async def test_a_signed_link_is_redirected_too(
    database_url: str, simulate: Simulate, s3: S3Place, source: Source
) -> None:
    async with archiving(database_url, simulate, s3, archive_serve="redirect") as archive:
        (file,) = await archive.kept(source.serve("a.png", PICTURE))
        link = (await archive.service.caller.http.post(f"/v1/files/{file['id']}/links")).json()["url"]
        answer = await get_anonymously(link)
        assert (answer.history[0].status_code, answer.content) == (307, PICTURE)
        assert "signature" not in str(answer.url).split("?")[0]


async def test_a_folder_has_no_urls_of_its_own_and_is_served_from_here(
    database_url: str, simulate: Simulate, source: Source, tmp_path: Path
) -> None:
    async with archiving(database_url, simulate, folder_place(tmp_path), archive_serve="redirect") as archive:
        (file,) = await archive.kept(source.serve("a.png", PICTURE))
        answer = await archive.get(file["url"])
        assert (answer.status_code, answer.content) == (200, PICTURE)


async def test_with_the_archive_off_by_now_a_kept_file_is_not_found(
    database_url: str, simulate: Simulate, place: Place, source: Source
) -> None:
    async with archiving(database_url, simulate, place) as archive:
        (file,) = await archive.kept(source.serve("a.png", PICTURE))
    async with archiving(database_url, simulate, place) as archive:
        archive.service.ctx.objects = None
        assert "off" in refused(await archive.get(f"/v1/files/{file['id']}"), 404)["error"]
