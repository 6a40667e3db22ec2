"""Result files outlive the vendor's purge, whatever the source, the storage and this process do meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.archive import fetch, keep, pictures
from app.archive.keep import UNSEEN, object_name
from app.archive.queries import fetching
from app.archive.urls import MOST_FILES
from app.context import Context
from app.jobs import archiving as archiver
from app.jobs.backfill import backfill
from app.jobs.outputs import urls_of
from app.objects import StorageFailed
from app.outbound.client import Outbound
from app.targets import Targets
from tests.archive.stories import Archive, Simulate, archiving, get_anonymously
from tests.harness import FLUX, FrozenClock, eventually, tell
from tests.media import Film, png, wav
from tests.objects import Place, folder_place
from tests.sources import Gate, Source

UntilClosed = Callable[..., str]


@pytest.fixture
async def until_closed() -> AsyncIterator[UntilClosed]:
    """Serve bodies in turn, each framed by nothing but the end of its connection."""
    bodies: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + bodies.pop(0))
        await writer.drain()
        writer.close()

    def start(*wanted: bytes) -> str:
        bodies.extend(wanted)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/a.png"

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield start


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def settled_in_a_hurry(archive: Archive, job_id: str) -> dict[str, Any]:
    """The job object, once none of its files is still to be fetched, each attempt at once after the one that failed."""

    async def look() -> dict[str, Any]:
        await archive.hurry()
        return await archive.service.caller.read(job_id)

    return await eventually(look, lambda job: job["archiveStatus"] != "pending", seconds=200)


async def test_every_file_of_a_result_is_kept_described_and_served(archive: Archive, source: Source) -> None:
    picture, sound = png(64, 48, seed=1), wav()
    result = {
        "images": [
            source.serve("a.png", picture, content_type="image/png"),
            {"url": source.serve("b.png", png(seed=2))},
        ],
        "tracks": [{"audioUrl": source.serve("c.wav", sound, content_type="text/html"), "title": "no http://url here"}],
    }
    job = await archive.settled(await archive.job(result))
    assert job["archiveStatus"] == "stored"
    assert job["result"] == result
    first, second, third = job["files"]
    assert [file["source"] for file in job["files"]] == [f"{source.url}/{name}" for name in ("a.png", "b.png", "c.wav")]
    assert (first["contentType"], first["bytes"], first["width"], first["height"]) == (
        "image/png",
        len(picture),
        64,
        48,
    )
    assert first["sha256"] == sha256(picture)
    assert second["thumbnailUrl"] == f"{second['url']}/thumbnail"
    assert third["contentType"] == "audio/wav"
    assert not third.keys() & {"width", "height", "thumbnailUrl"}
    for file, data in ((first, picture), (third, sound)):
        answer = await archive.get(file["url"])
        assert answer.status_code == 200
        assert answer.content == data
        assert answer.headers["Content-Type"] == file["contentType"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    (event,) = await archive.events(job["id"], "job.archived")
    assert event["data"]["files"] == job["files"]
    assert await archive.events(job["id"], "job.archive_failed") == []


async def test_after_the_purge_every_result_still_answers_with_the_same_bytes(
    database_url: str, simulate: Simulate, place: Place
) -> None:
    """The simulator's own files, whose URLs die; the vendor-shaped job object leads to ours from then on."""
    async with archiving(database_url, simulate, place, hold=False) as archive:
        job_ids = [await archive.service.caller.accepted(FLUX | {"prompt": f"picture {n}"}) for n in range(3)]
        before = []
        for job_id in job_ids:
            assert (await archive.service.caller.read(job_id, wait=60))["status"] == "COMPLETED"
            job = await archive.settled(job_id)
            (url,) = job["result"]["images"]
            before.append(await get_anonymously(url))
            assert url.startswith(archive.simulator.url)
            assert not job["expired"]
        await tell(archive.simulator, "advance", seconds=90_000)
        archive.service.ctx.clock = FrozenClock()
        archive.service.ctx.clock.advance(90_000)
        for job_id, old in zip(job_ids, before, strict=True):
            job = await archive.service.caller.read(job_id)
            assert not job["expired"]
            assert (await get_anonymously(job["files"][0]["source"])).status_code == 404
            (url,) = job["result"]["images"]
            assert url.startswith(archive.service.url)
            now = await get_anonymously(url)
            assert (now.status_code, now.content, now.headers["Content-Type"]) == (200, old.content, "image/jpeg")
            assert sha256(now.content) == job["files"][0]["sha256"]


async def test_with_the_setting_results_lead_to_our_files_as_soon_as_they_are_kept(
    database_url: str, simulate: Simulate, place: Place, source: Source
) -> None:
    async with archiving(database_url, simulate, place, result_urls="archive") as archive:
        data = png(seed=3)
        urls = [source.serve("a.png", data), source.serve("gone.png", data, status=410)]
        job_id = await archive.job({"images": urls, "note": "kept as it is"})
        await eventually(lambda: archive.service.caller.read(job_id), lambda job: job["files"])
        archive.service.ctx.clock = FrozenClock()  # addresses are others every hour
        job = await archive.service.caller.read(job_id)
        ours, theirs = job["result"]["images"]
        assert theirs == urls[1]
        assert job["result"]["note"] == "kept as it is"
        assert (await get_anonymously(ours)).content == data
        again = await archive.service.caller.read(job_id)
        assert again["result"]["images"] == [ours, theirs]


async def test_a_connection_that_breaks_is_taken_up_where_it_broke(archive: Archive, source: Source) -> None:
    film = Film(3_000_000)
    url = source.serve("film.mp4", film, truncate_at=1_000_000, fail_times=1)
    job = await archive.settled(await archive.job({"videoUrl": url}))
    (file,) = job["files"]
    assert (file["contentType"], file["bytes"], file["sha256"]) == ("video/mp4", film.size, film.sha256)
    first, second = source.asked("film.mp4")
    assert first.range is None
    assert second.range == "bytes=1000000-"
    assert (await archive.files(job["id"]))[0].attempt_count == 1


async def test_what_broke_off_is_fetched_again_and_nothing_of_it_is_left(
    archive: Archive, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiver, "FIRST_WAIT_SECONDS", 3600)
    data = png(200, 200, seed=4)
    url = source.serve("a.png", data, ranges=False, truncate_at=len(data) // 2, fail_times=1)
    job_id = await archive.job({"images": [url]})
    (file,) = await eventually(lambda: archive.files(job_id), lambda rows: rows[0].reason)
    assert (file.status, file.reason) == ("pending", "the answer broke off")
    assert await archive.place.names() == []
    assert (await archive.get(f"/v1/files/{file.id}")).status_code == 404
    await archive.hurry()
    job = await archive.settled(job_id)
    assert job["files"][0]["sha256"] == sha256(data)
    assert len(await archive.place.names()) == 2  # the picture and its thumbnail
    assert await archive.place.unfinished() == []


async def test_nothing_is_served_while_a_file_is_only_half_there(archive: Archive, source: Source) -> None:
    gate = Gate(after=6_000_000)
    film = Film(9_000_000)
    job_id = await archive.job({"videoUrl": source.serve("film.mp4", film, gate=gate)})
    await asyncio.wait_for(gate.reached.wait(), 60)
    (row,) = await archive.files(job_id)
    assert row.status == "pending"
    assert (await archive.get(f"/v1/files/{row.id}")).status_code == 404
    assert (await archive.service.caller.read(job_id))["files"] == []
    gate.released.set()
    job = await archive.settled(job_id)
    assert job["files"][0]["sha256"] == film.sha256


async def test_storage_that_refuses_for_a_while_costs_time_only(archive: Archive, source: Source) -> None:
    data = {f"{n}.png": png(seed=n) for n in range(3)}
    with archive.place.refusing():
        job_id = await archive.job({"images": [source.serve(name, picture) for name, picture in data.items()]})
        rows = await eventually(
            lambda: archive.files(job_id), lambda rows: all((row.reason or "").startswith("storage: ") for row in rows)
        )
        assert {row.status for row in rows} == {"pending"}
    job = await settled_in_a_hurry(archive, job_id)
    assert [file["sha256"] for file in job["files"]] == [sha256(picture) for picture in data.values()]
    with archive.place.refusing():
        answer = await archive.get(job["files"][0]["url"])
        assert answer.status_code == 503
        assert answer.headers["Retry-After"]
    assert (await archive.get(job["files"][0]["url"])).content == data["0.png"]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a page": (
        {"body": b"<!doctype html><title>sorry</title>", "content_type": "image/png"},
        "is no picture, film or sound",
    ),
    "nothing": ({"body": b""}, "the file is empty"),
    "no such file": ({"body": b"", "status": 404}, "the source answers 404"),
}


@pytest.mark.parametrize("kind", BAD)
async def test_what_is_no_file_is_given_up_and_reported_with_its_reason(
    archive: Archive, source: Source, kind: str
) -> None:
    how, reason = BAD[kind]
    good = png(seed=6)
    urls = [source.serve("bad.png", **how), source.serve("good.png", good)]
    job_id = await archive.job({"images": urls})
    job = await settled_in_a_hurry(archive, job_id)
    assert job["archiveStatus"] == "failed"
    assert [file["sha256"] for file in job["files"]] == [sha256(good)]
    bad, _ = await archive.files(job_id)
    assert (bad.status, bad.refused_count) == ("failed", archiver.MOST_REFUSALS)
    assert reason in bad.reason
    (event,) = await archive.events(job_id, "job.archive_failed")
    assert event["data"]["failedFiles"] == [
        {"id": str(bad.id), "source": urls[0], "status": "failed", "reason": bad.reason}
    ]
    assert len(await archive.events(job_id, "job.archived")) == 1
    assert len(await archive.place.names()) == 2


async def test_a_picture_that_ends_with_its_connection_in_the_middle_is_not_taken_for_whole(
    archive: Archive, source: Source, until_closed: UntilClosed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No length, no chunks, and a clean end: only the picture itself says that half of it is missing."""
    monkeypatch.setattr(archiver, "FIRST_WAIT_SECONDS", 3600)
    data = png(300, 300, seed=5)
    job_id = await archive.job({"images": [until_closed(data[: len(data) // 2], data)]})
    (row,) = await eventually(lambda: archive.files(job_id), lambda rows: rows[0].reason)
    assert (row.status, row.refused_count) == ("pending", 1)
    assert row.reason.startswith("The picture ")
    await archive.hurry()
    job = await archive.settled(job_id)
    assert job["files"][0]["sha256"] == sha256(data)


async def test_a_picture_that_is_damaged_at_its_source_is_kept_as_the_upstream_made_it(
    archive: Archive, source: Source
) -> None:
    data = png(300, 300, seed=5)[:2_000]
    job = await archive.settled(await archive.job({"images": [source.serve("a.png", data)]}))
    (file,) = job["files"]
    assert file["sha256"] == sha256(data)
    assert not file.keys() & {"width", "thumbnailUrl"}
    (row,) = await archive.files(job["id"])
    assert row.reason.startswith("The picture ")


@pytest.mark.parametrize("endless", [False, True], ids=["declared", "endless"])
async def test_a_file_that_is_too_large_is_not_kept(
    database_url: str, simulate: Simulate, place: Place, source: Source, endless: bool
) -> None:
    async with archiving(database_url, simulate, place, archive_largest_mb=8) as archive:
        url = source.serve("film.mp4", Film(9_000_000), endless=endless)
        job = await archive.settled(await archive.job({"videoUrl": url}))
        (row,) = await archive.files(job["id"])
        assert (row.status, row.attempt_count) == ("failed", 1)
        assert "8,000,000" in row.reason
        assert await place.names() == []
        assert await place.unfinished() == []


PRIVATE: tuple[str, ...] = ("http://10.0.0.1/x.png", "http://169.254.169.254/latest")


@pytest.mark.parametrize("target", PRIVATE)
async def test_a_source_at_a_private_address_is_refused(archive: Archive, target: str) -> None:
    job = await archive.settled(await archive.job({"images": [target]}))
    (row,) = await archive.files(job["id"])
    assert (row.status, row.attempt_count) == ("failed", 1)
    assert row.reason
    assert await archive.place.names() == []


@pytest.mark.parametrize("target", [*PRIVATE, "file:///etc/passwd"])
async def test_a_source_that_leads_to_a_private_address_is_refused_for_now(
    archive: Archive, source: Source, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.setattr(archiver, "FIRST_WAIT_SECONDS", 3600)
    job_id = await archive.job({"images": [source.serve("a.png", redirect_to=target)]})
    (row,) = await eventually(lambda: archive.files(job_id), lambda rows: rows[0].reason)
    assert (row.status, row.refused_count) == ("pending", 1)
    assert await archive.place.names() == []


async def test_a_name_that_leads_nowhere_for_a_moment_is_tried_again(
    quiet: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a resolver has a sinkhole, or a name that is just being set up: 23 hours are left to try again."""
    sources = Outbound(Targets(()), lookup=lambda _: ["0.0.0.0"])
    monkeypatch.setattr(quiet.service.ctx, "sources", sources)
    job_id = await quiet.job({"images": ["http://cdn.example/a.png"]})
    await archiver.run_once(quiet.service.ctx)
    await sources.close()
    (file,) = await quiet.files(job_id)
    assert (file.status, file.refused_count) == ("pending", 1)


async def test_a_source_that_redirects_to_a_public_file_is_followed(archive: Archive, source: Source) -> None:
    data = png(seed=7)
    source.serve("real.png", data)
    job = await archive.settled(await archive.job({"images": [source.serve("a.png", redirect_to="/real.png")]}))
    assert job["files"][0]["sha256"] == sha256(data)


async def test_a_slow_source_keeps_its_lease_for_as_long_as_it_takes(
    archive: Archive, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiver, "RENEW_SECONDS", 0.1)
    gate = Gate(after=100_000)
    film = Film(200_000)
    job_id = await archive.job({"videoUrl": source.serve("film.mp4", film, gate=gate)})
    await asyncio.wait_for(gate.reached.wait(), 60)
    (row,) = await archive.files(job_id)
    await eventually(lambda: archive.files(job_id), lambda rows: rows[0].due_at > row.due_at)
    gate.released.set()
    job = await archive.settled(job_id)
    assert job["files"][0]["sha256"] == film.sha256
    assert len(source.asked("film.mp4")) == 1


async def test_a_lease_that_was_lost_stores_and_records_nothing(
    archive: Archive, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when this process was frozen for longer than its lease, and another one has the file by now."""
    monkeypatch.setattr(archiver, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(keep, "BREAK_OFF_SECONDS", 60.0)
    gate = Gate(after=100_000)
    job_id = await archive.job({"videoUrl": source.serve("film.mp4", Film(200_000), gate=gate)})
    await asyncio.wait_for(gate.reached.wait(), 60)
    async with archive.service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql("UPDATE files SET lease_token = gen_random_uuid(), due_at = now() + interval '1 hour'")
    await eventually(lambda: asyncio.sleep(0, archive.service.ctx.fetching), lambda fetching: not fetching)
    gate.released.set()
    (row,) = await archive.files(job_id)
    assert (row.status, row.reason) == ("pending", None)
    assert await archive.place.names() == []
    assert await archive.place.unfinished() == []


async def test_two_attempts_of_one_process_at_a_file_are_counted_apart(archive: Archive, source: Source) -> None:
    """As when this process was busy for longer than the lease of the first, which it does not know yet."""
    gate = Gate(after=100_000)
    film = Film(200_000)
    job_id = await archive.job({"videoUrl": source.serve("film.mp4", film, gate=gate)})
    await asyncio.wait_for(gate.reached.wait(), 60)
    ctx = archive.service.ctx
    async with ctx.db.transaction() as tx:
        await tx.exec_driver_sql("UPDATE files SET due_at = now()")
    ctx.notify.nudge(["archive"])
    await eventually(lambda: asyncio.sleep(0, len(ctx.fetching)), lambda count: count == 2)
    gate.released.set()
    job = await archive.settled(job_id)
    assert job["files"][0]["sha256"] == film.sha256
    await eventually(lambda: asyncio.sleep(0, ctx.fetching), lambda fetching: not fetching)
    assert len(await archive.place.names()) == 1


async def test_stopping_does_not_wait_for_a_long_download(
    database_url: str, simulate: Simulate, place: Place, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keep, "BREAK_OFF_SECONDS", 60.0)
    gate = Gate(after=6_000_000)
    film = Film(9_000_000)
    url = source.serve("film.mp4", film, gate=gate)
    async with archiving(database_url, simulate, place) as archive:
        job_id = await archive.job({"videoUrl": url})
        await asyncio.wait_for(gate.reached.wait(), 60)
    assert await place.names() == []
    gate.released.set()
    async with archiving(database_url, simulate, place) as archive:
        async with asyncio.timeout(60):
            while not (rows := await archive.files(job_id)) or rows[0].status != "stored":
                await asyncio.sleep(0.02)
    assert rows[0].sha256.hex() == film.sha256


async def test_of_two_files_that_end_at_once_one_is_the_last(archive: Archive, source: Source) -> None:
    job_ids = [
        await archive.job({"images": [source.serve(f"{n}-{m}.png", png(seed=n * 4 + m)) for m in range(4)]})
        for n in range(4)
    ]
    for job_id in job_ids:
        await archive.settled(job_id)
        assert len(await archive.events(job_id, "job.archived")) == 1


async def test_the_alarm_comes_once_when_files_are_not_kept_near_the_purge(quiet: Archive, source: Source) -> None:
    url = source.serve("a.png", png(), status=503)
    job_id = await quiet.job({"images": [url]})
    await archiver.run_once(quiet.service.ctx)
    assert await archiver.tell_late_once(quiet.service.ctx) == 0
    later = FrozenClock()
    later.time += archiver.LATE_AFTER + timedelta(minutes=1)
    ctx: Context = quiet.service.ctx
    ctx.clock = later
    assert await archiver.tell_late_once(ctx) == 1
    assert await archiver.tell_late_once(ctx) == 0
    (event,) = await quiet.events(job_id, "job.archive_late")
    (late,) = event["data"]["lateFiles"]
    assert (late["source"], late["reason"]) == (url, "the source answers 503")
    operator = await quiet.service.new_caller("ops", ("ops",))
    status = (await operator.http.get("/v1/status")).json()["files"]
    assert (status["pending"], status["late"], status["failed"]) == (1, 1, 0)
    assert "framehook_files_late 1.0" in (await operator.http.get("/metrics")).text


async def test_what_is_not_had_an_hour_before_the_purge_is_given_up(archive: Archive, source: Source) -> None:
    job_id = await archive.job({"images": [source.serve("a.png", png(), status=503)]})
    await eventually(lambda: archive.files(job_id), lambda rows: rows[0].reason)
    later = FrozenClock()
    later.time += timedelta(hours=23, minutes=1)
    archive.service.ctx.clock = later
    archive.service.ctx.notify.nudge(["archive"])
    job = await archive.settled(job_id)
    assert (job["archiveStatus"], job["files"], job["expired"]) == ("failed", [], False)
    later.time += timedelta(hours=1)
    assert (await archive.service.caller.read(job_id))["expired"]


async def test_what_nobody_wants_is_not_kept(
    database_url: str, simulate: Simulate, place: Place, source: Source
) -> None:
    async with archiving(database_url, simulate, place, archive_modalities="video,music") as archive:
        job_id = await archive.job({"images": [source.serve("a.png", png())]})
        job = await archive.service.caller.read(job_id)
        assert (job["archiveStatus"], job["files"]) == (None, [])
        assert await archive.files(job_id) == []


async def test_a_team_may_want_less_than_the_others(archive: Archive, source: Source) -> None:
    async with archive.service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql("UPDATE teams SET archived_modalities = '{video}' WHERE name = 'tests'")
    job_id = await archive.job({"images": [source.serve("a.png", png())]})
    assert await archive.files(job_id) == []
    async with archive.service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql("UPDATE teams SET archived_modalities = '{video,image}' WHERE name = 'tests'")
    job = await archive.settled(await archive.job({"images": [source.serve("b.png", png())]}))
    assert job["archiveStatus"] == "stored"


async def test_a_trace_tells_of_every_attempt(
    archive: Archive, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiver, "FIRST_WAIT_SECONDS", 3600)
    job_id = await archive.job({"images": [source.serve("a.png", png(), fail_times=1)]})
    await eventually(lambda: archive.files(job_id), lambda rows: rows[0].reason)
    await archive.hurry()
    await archive.settled(job_id)
    trace = (await archive.get(f"/v1/jobs/{job_id}/trace")).json()
    told = [(step["status"], step["reason"]) for step in trace["steps"] if step["what"] == "archive"]
    assert told == [("pending", "the source answers 503"), ("stored", None)]


def test_waits_grow_up_to_a_quarter_of_an_hour() -> None:
    waits = [archiver.wait_seconds(attempt, 0.5) for attempt in range(1, 15)]
    assert waits[:4] == [2, 4, 8, 16]
    assert waits[-1] == 900
    assert sum(waits[: archiver.MOST_REFUSALS - 1]) > 15 * 60


@pytest.fixture
async def quiet(database_url: str, simulate: Simulate, tmp_path: Path) -> AsyncIterator[Archive]:
    """A service that fetches when the test says so."""
    async with archiving(database_url, simulate, folder_place(tmp_path), loops=False) as running:
        yield running


async def claim_and_be_killed(archive: Archive) -> None:
    """Claim what there is as a process does that ends before it records anything; the leases are over at once."""
    ctx = archive.service.ctx
    async with ctx.db.transaction() as tx:
        await fetching.claim_files(tx, places=10, share=10, busy={}, now=ctx.now(), until=ctx.now())


@pytest.mark.parametrize("error", [MemoryError(), AttributeError("x"), StorageFailed("no answer")])
async def test_a_picture_that_cannot_be_looked_at_is_kept_all_the_same(
    quiet: Archive, source: Source, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def look(_: bytes) -> Any:
        raise error

    monkeypatch.setattr(pictures, "look", look)
    data = png()
    job_id = await quiet.job({"images": [source.serve("a.png", data)]})
    await archiver.run_once(quiet.service.ctx)
    (file,) = await quiet.files(job_id)
    assert (file.status, file.thumbnail) == ("stored", None)
    assert file.reason.startswith("not looked at: ")
    assert (await quiet.get(f"/v1/files/{file.id}")).content == data


async def test_a_picture_whose_thumbnail_cannot_be_stored_is_kept_all_the_same(
    quiet: Archive, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any, **__: Any) -> None:
        raise StorageFailed("full")

    monkeypatch.setattr(quiet.service.ctx.objects, "put_bytes", refuse)
    job_id = await quiet.job({"images": [source.serve("a.png", png(64, 48))]})
    await archiver.run_once(quiet.service.ctx)
    (file,) = await quiet.files(job_id)
    assert (file.status, file.thumbnail, file.width) == ("stored", None, 64)
    assert file.reason == "no thumbnail: storage: full"


async def test_a_picture_that_ends_whoever_looks_at_it_is_kept_without_a_look(quiet: Archive, source: Source) -> None:
    job_id = await quiet.job({"images": [source.serve("a.png", png())]})
    for _ in range(archiver.MOST_UNRECORDED_LOOKS):
        await claim_and_be_killed(quiet)
    assert await archiver.run_once(quiet.service.ctx) == 1
    (file,) = await quiet.files(job_id)
    assert (file.status, file.reason, file.width, file.unrecorded_count) == ("stored", UNSEEN, None, 0)


async def test_a_file_that_ends_whoever_fetches_it_is_given_up_at_last(quiet: Archive, source: Source) -> None:
    """No attempt is ever recorded where each one ends the process: memory, a decoder's fault, the operator's patience."""
    job_id = await quiet.job({"images": [source.serve("a.png", png())]})
    for _ in range(archiver.MOST_UNRECORDED):
        await claim_and_be_killed(quiet)
    assert await archiver.run_once(quiet.service.ctx) == 1
    assert await archiver.run_once(quiet.service.ctx) == 0
    (file,) = await quiet.files(job_id)
    assert (file.status, file.reason) == ("failed", "given up: 10 attempts were begun and none came to an end")
    assert source.asked("a.png") == []
    (event,) = await quiet.events(job_id, "job.archive_failed")
    assert event["data"]["failedFiles"][0]["reason"] == file.reason


async def test_a_file_past_its_time_is_tried_once_and_not_again_by_whoever_did_not_survive_it(
    quiet: Archive, source: Source
) -> None:
    job_id = await quiet.job({"images": [source.serve("a.png", png())]})
    async with quiet.service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql("UPDATE files SET give_up_at = now()")
    await claim_and_be_killed(quiet)
    assert await archiver.run_once(quiet.service.ctx) == 1
    (file,) = await quiet.files(job_id)
    assert (file.status, file.reason) == ("failed", "given up: the last attempt was begun and came to no end")


async def test_what_killed_attempts_left_is_removed_by_the_one_that_ends(quiet: Archive, source: Source) -> None:
    job_id = await quiet.job({"images": [source.serve("a.png", png())]})
    await claim_and_be_killed(quiet)
    (file,) = await quiet.files(job_id)
    await quiet.place.write(object_name(file.id, file.completed_at, 1), b"half of it")
    await archiver.run_once(quiet.service.ctx)
    (file,) = await quiet.files(job_id)
    assert await quiet.place.names() == [file.object, file.thumbnail]


async def test_a_job_with_slow_sources_leaves_places_to_others(archive: Archive, source: Source) -> None:
    gates = [Gate(after=10) for _ in range(archiver.PLACES)]
    slow = [source.serve(f"slow{n}.png", png(), gate=gate) for n, gate in enumerate(gates)]
    job_id = await archive.job({"images": slow})
    await source.wait(archiver.SHARE)
    other = await archive.job({"images": [source.serve(f"quick{n}.png", png()) for n in range(5)]})
    assert (await archive.settled(other))["archiveStatus"] == "stored"
    assert len([asked for asked in source.requests if "slow" in asked.path]) == archiver.SHARE
    for gate in gates:
        gate.released.set()
    assert (await archive.settled(job_id))["archiveStatus"] == "stored"


async def test_what_comes_too_slowly_is_broken_off_and_tried_again(
    quiet: Archive, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "PATIENCE_SECONDS", 0.3)
    job_id = await quiet.job({"videoUrl": source.serve("a.mp4", Film(200_000), piece_bytes=2000, pause_seconds=0.1)})
    await archiver.run_once(quiet.service.ctx)
    (file,) = await quiet.files(job_id)
    assert (file.status, file.refused_count) == ("pending", 1)
    assert file.reason.startswith("it comes too slowly: ")
    assert await quiet.place.names() == []


async def test_what_comes_steadily_may_take_longer(
    quiet: Archive, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(fetch, "LEAST_RATE", 1)
    film = Film(300_000)
    job_id = await quiet.job({"videoUrl": source.serve("a.mp4", film, piece_bytes=20_000, pause_seconds=0.05)})
    await archiver.run_once(quiet.service.ctx)
    assert [file.status for file in await quiet.files(job_id)] == ["stored"]


async def test_stopping_does_not_wait_for_a_look(
    database_url: str, simulate: Simulate, place: Place, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, release = threading.Event(), threading.Event()

    def look(_: bytes) -> None:
        begun.set()
        release.wait(120)

    monkeypatch.setattr(pictures, "look", look)
    async with archiving(database_url, simulate, place) as archive:
        await archive.job({"images": [source.serve("a.png", png())]})
        await asyncio.to_thread(begun.wait, 60)
        stopping = time.monotonic()
    assert time.monotonic() - stopping < 60
    release.set()


async def test_a_stop_does_not_give_up_what_is_tried_for_the_last_time(
    database_url: str, simulate: Simulate, place: Place, source: Source
) -> None:
    gate, film = Gate(after=100_000), Film(200_000)
    url = source.serve("film.mp4", film, gate=gate)
    async with archiving(database_url, simulate, place, loops=False) as archive:
        job_id = await archive.job({"videoUrl": url})
        async with archive.service.ctx.db.transaction() as tx:
            await tx.exec_driver_sql("UPDATE files SET give_up_at = now()")
        assert await archiver.start_once(archive.service.ctx) == 1
        await asyncio.wait_for(gate.reached.wait(), 60)
    gate.released.set()
    async with archiving(database_url, simulate, place, loops=False) as archive:
        (row,) = await archive.files(job_id)
        assert (row.status, row.reason) == ("pending", "this process is stopped")
        assert (row.refused_count, row.unrecorded_count) == (0, 0)
        await archiver.run_once(archive.service.ctx)
        assert [row.status for row in await archive.files(job_id)] == ["stored"]


async def test_what_is_more_than_is_kept_of_a_result_is_told(quiet: Archive, source: Source) -> None:
    urls = [source.serve(f"{n}.png", png()) for n in range(MOST_FILES + 3)]
    job_id = await quiet.job({"images": urls})
    ctx = quiet.service.ctx
    while await archiver.run_once(ctx):
        pass
    job = await quiet.service.caller.read(job_id)
    assert (job["archiveStatus"], len(job["files"])) == ("failed", MOST_FILES)
    (event,) = await quiet.events(job_id, "job.archive_failed")
    (rest,) = event["data"]["failedFiles"]
    assert (rest["source"], rest["reason"]) == (urls[MOST_FILES], "more than 100 files: 3 are left out")
    assert len(await quiet.events(job_id, "job.archived")) == 1
    assert dict(await backfill(ctx, since=ctx.now() - timedelta(days=1), told=lambda *_: None)) == {}
    clock = ctx.clock = FrozenClock()
    clock.time += timedelta(days=2)
    assert (await quiet.service.caller.read(job_id))["expired"]


async def test_a_result_that_is_nested_too_deep_to_be_taken_apart_is_read_as_it_is(
    quiet: Archive, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """940 levels are within what a poll takes in, and beyond what is left of Python's stack in a request."""
    url, ctx = source.serve("a.png", png()), quiet.service.ctx
    job_id = await quiet.job({"images": [url]})
    await archiver.run_once(ctx)
    deep = "[" * 940 + f'"{url}"' + "]" * 940
    async with ctx.db.transaction() as tx:
        await tx.exec_driver_sql("UPDATE jobs SET result = $1::jsonb", (deep,))
    assert (await quiet.get(f"/v2/jobs/{job_id}")).status_code == 200
    async with ctx.db.transaction() as tx:
        await tx.exec_driver_sql("UPDATE jobs SET completed_at = now() - interval '2 days'")
    assert (await quiet.get("/v2/jobs")).status_code == 200
    answer = await quiet.get(f"/v2/jobs/{job_id}")
    assert (answer.status_code, deep in answer.text.replace(" ", "")) == (200, True)


def test_a_result_that_cannot_be_taken_apart_has_no_files() -> None:
    assert urls_of("a job", "[" * 5000 + "]" * 5000) == []
