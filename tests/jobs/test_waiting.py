"""A submission that waits: `Prefer: wait=N` answers with the job as it ended, `Accept: image/*` leads to the picture."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from app.jobs import reading
from app.jobs.reading import LONGEST_WAIT_SECONDS
from app.jobs.waiting import Wish
from app.simulator.server import RunningSimulator
from app.teams.keys import revoke_key
from tests.archive.stories import Archive, archiving, get_anonymously
from tests.harness import FLUX, Caller, HeldJob, Service, eventually, held_job, refused, tell
from tests.media import png, wav
from tests.objects import folder_place
from tests.sources import Gate, Source, sourcing

PICTURE: Final = png(20, 20, seed=1)
WAIT: Final[dict[str, Any]] = {"Prefer": "wait=60"}
WANT_PICTURE: Final[dict[str, Any]] = WAIT | {"Accept": "image/*"}
WANT: Final = tuple(f"{name}: {value}" for name, value in WANT_PICTURE.items())


@pytest.fixture
async def source() -> AsyncIterator[Source]:
    async with sourcing() as running:
        yield running


@pytest.fixture
async def archive(
    database_url: str, simulate: Callable[..., RunningSimulator], tmp_path: Path
) -> AsyncIterator[Archive]:
    async with archiving(database_url, simulate, folder_place(tmp_path)) as running:
        yield running


async def waiting(
    archive: Archive, caller: Caller | None = None, **headers: str
) -> tuple[asyncio.Task[httpx.Response], HeldJob]:
    """A submission that waits for its answer, and its job, once the upstream has it."""

    async def look() -> list[dict[str, Any]]:
        return list((await asyncio.to_thread(archive.simulator.ask, "books?part=jobs"))["jobs"])

    before = len(await look())
    task = asyncio.create_task((caller or archive.service.caller).submit(**headers))
    job = (await eventually(look, lambda jobs: len(jobs) > before))[-1]
    held = HeldJob(job["idempotency_key"], job["job_id"], job["webhook_url"])
    await eventually(lambda: listeners(archive.service, held.id))
    return task, held


async def listeners(service: Service, job_id: str) -> int:
    """How many wait for this job in this process."""
    return len(service.ctx.notify._waiters.get(f"job:{job_id}", ()))


async def ended(archive: Archive, result: Any = None, *, how: dict[str, Any] | None = None, **headers: Any) -> Any:
    """The answer to a submission that waited for a job which ends so."""
    task, held = await waiting(archive, **headers)
    await archive.finish(held, result, **(how or {}))
    answer = await asyncio.wait_for(task, 30)
    return answer, held


async def ended_before(archive: Archive, result: Any, **headers: str) -> tuple[httpx.Response, HeldJob]:
    """The answer to whoever waits for a job that is over: of the time, which its submission begins, none was spent on it."""
    once = {"Idempotency_Key": "once"}
    held = await held_job(archive.service, archive.simulator, **once)
    await archive.finish(held, result)
    answer = await asyncio.wait_for(archive.service.caller.submit(**once, **headers), 30)
    return answer, held


# The job object


async def test_whoever_waits_is_answered_with_the_job_as_it_ended(archive: Archive) -> None:
    for how, status in (({}, "COMPLETED"), ({"status": "FAILED", "error": "NSFW"}, "FAILED")):
        answer, held = await ended(archive, {"seed": 7}, how=how, **WAIT)
        assert answer.status_code == 200
        assert (answer.json()["id"], answer.json()["status"]) == (held.id, status)
        assert answer.json() == await archive.service.caller.read(held.id)


@pytest.mark.parametrize(
    "accept",
    [
        "*/*",
        "application/json",
        "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8",
        "image/*, application/json",
        "",
        "image",
        "image/*, */*;q=0.1",
    ],
)
async def test_whoever_accepts_more_than_files_gets_the_job(archive: Archive, source: Source, accept: str) -> None:
    result = {"images": [source.serve("a.png", PICTURE)]}
    answer, held = await ended(archive, result, **WAIT, Accept=accept)
    assert (answer.status_code, answer.json()["id"]) == (200, held.id)


async def test_without_a_preference_to_wait_the_answer_is_the_usual_one(archive: Archive) -> None:
    for headers in ({}, {"Accept": "image/*"}, {"Prefer": "wait=soon"}, {"Prefer": "return=minimal"}):
        answer = await archive.service.caller.submit(**headers)
        assert answer.status_code == 202
        assert set(answer.json()) == {"jobId", "status"}


async def test_when_the_time_is_over_the_answer_is_the_usual_one(archive: Archive) -> None:
    caller = archive.service.caller
    preferences = ("wait=0.3", "wait=0", "wait=1", "respond-async, wait=1", "wait=1, respond-async")
    asked = [caller.submit(Prefer=each, Accept=accept) for each in preferences for accept in ("*/*", "image/*")]
    for answer in await asyncio.gather(*asked):
        assert answer.status_code == 202
        job = await caller.read(answer.json()["jobId"])
        assert set(answer.json()) == {"jobId", "status"}
        assert {answer.json()["status"], job["status"]} <= {"QUEUED", "PROCESSING"}


async def test_one_may_wait_without_waiting_for_the_upstream(archive: Archive) -> None:
    answer, held = await ended(archive, {"seed": 7}, Prefer="respond-async, wait=60")
    assert (answer.status_code, answer.json()["id"], answer.json()["status"]) == (200, held.id, "COMPLETED")


async def test_preferences_may_come_in_several_headers(archive: Archive) -> None:
    headers = [("Prefer", "respond-async"), ("Prefer", "wait=0"), ("Prefer", "wait=60")]
    wish = Wish.parse(Headers(raw=[(name.lower().encode(), value.encode()) for name, value in headers]))
    assert (wish.respond_async, wish.wait_seconds) == (True, 0)
    accepts = [(b"prefer", b"wait=5"), (b"accept", b"image/png"), (b"accept", b"application/json")]
    assert Wish.parse(Headers(raw=accepts)).types == ()


async def test_an_idempotency_key_waits_for_the_same_job(archive: Archive) -> None:
    task, held = await waiting(archive, **WAIT, Idempotency_Key="order-17")
    again = asyncio.create_task(archive.service.caller.submit(**WAIT, Idempotency_Key="order-17"))
    await eventually(lambda: listeners(archive.service, held.id), lambda count: count == 2)
    await archive.finish(held, {"seed": 7})
    first, second = await task, await again
    third = await archive.service.caller.submit(**WAIT, Idempotency_Key="order-17")
    assert [answer.status_code for answer in (first, second, third)] == [200] * 3
    assert {answer.json()["id"] for answer in (first, second, third)} == {held.id}


async def test_a_retry_can_be_waited_for_too(archive: Archive) -> None:
    _, held = await ended(archive, how={"status": "FAILED", "error": "NSFW"}, **WAIT)
    path = f"/v1/jobs/{held.id}/retry"
    answer = await archive.service.caller.http.post(path, headers={"Prefer": "wait=1"})
    assert (answer.status_code, set(answer.json())) == (202, {"jobId", "status"})


async def test_a_refusal_comes_at_once(archive: Archive) -> None:
    refused(await archive.service.caller.submit({"model": "flux-1.1-pro-ultra"}, **WANT_PICTURE), 400)


# The way to a file


async def test_whoever_wants_a_picture_is_led_to_it_and_needs_no_key_there(archive: Archive, source: Source) -> None:
    result = {"audio": source.serve("a.wav", wav()), "images": [source.serve("a.png", PICTURE)]}
    answer, held = await ended(archive, result, **WANT_PICTURE)
    assert answer.status_code == 303
    location = answer.headers["Location"]
    assert answer.json() == {"jobId": held.id, "status": "COMPLETED", "url": location}
    picture = await get_anonymously(location)
    assert (picture.status_code, picture.content, picture.headers["Content-Type"]) == (200, PICTURE, "image/png")
    sound, _ = await ended(archive, result, **WAIT, Accept="video/mp4;q=0.3, Audio/WAV")
    assert (await get_anonymously(sound.headers["Location"])).content == wav()


async def test_a_picture_is_waited_for_though_other_files_are_slow(archive: Archive, source: Source) -> None:
    slow, gone = Gate(after=10), Gate(after=10)
    urls = [source.serve("slow.png", png(seed=2), gate=slow), source.serve("a.png", PICTURE, gate=gone)]
    task, held = await waiting(archive, **WANT_PICTURE)
    await archive.finish(held, {"images": urls})
    await asyncio.wait_for(gone.reached.wait(), 30)
    assert not task.done()
    gone.released.set()
    answer = await asyncio.wait_for(task, 30)
    assert (await get_anonymously(answer.headers["Location"])).content == PICTURE
    slow.released.set()
    await archive.settled(held.id)


async def test_what_is_not_kept_in_time_is_had_from_the_upstream(archive: Archive, source: Source) -> None:
    gate = Gate(after=10)
    url = source.serve("a.png", PICTURE, gate=gate)
    answer, held = await ended_before(archive, {"images": [url]}, Prefer="wait=1", Accept="image/*")
    assert (answer.status_code, answer.headers["Location"]) == (303, url)
    gate.released.set()
    await archive.settled(held.id)


async def test_a_kept_file_of_another_kind_is_not_given_for_one_that_could_not_be_kept(
    archive: Archive, source: Source
) -> None:
    lost = source.serve("a.png", PICTURE, declared_length=10**12)
    result = {"audio": source.serve("a.wav", wav()), "images": [lost]}
    answer, _ = await ended(archive, result, **WANT_PICTURE)
    assert (answer.status_code, answer.headers["Location"]) == (303, lost)


async def test_the_way_to_a_url_that_is_not_ascii_is_told_in_ascii(archive: Archive, source: Source) -> None:
    url = source.serve("\u00fc%20\u4e2d.png", png(), status=503)
    answer, _ = await ended_before(archive, {"images": [url]}, Accept="image/*", Prefer="wait=1")
    assert (answer.status_code, answer.json()["url"]) == (303, url)
    assert answer.headers["Location"] == f"{source.url}/%C3%BC%20%E4%B8%AD.png"


async def test_a_job_that_made_nothing_of_the_kind_is_not_acceptable(archive: Archive, source: Source) -> None:
    answer, held = await ended(archive, {"audio": source.serve("a.wav", wav())}, **WANT_PICTURE)
    assert refused(answer, 406)["jobId"] == held.id
    answer, held = await ended(archive, {"text": "no file at all"}, **WANT_PICTURE)
    assert refused(answer, 406)["jobId"] == held.id


async def test_a_job_that_failed_or_was_cancelled_leads_nowhere(
    database_url: str, simulate: Callable[..., RunningSimulator], tmp_path: Path
) -> None:
    async with archiving(database_url, simulate, folder_place(tmp_path), reconcile_after_seconds=0.2) as archive:
        failed, held = await ended(archive, how={"status": "FAILED", "error": "NSFW prompt"}, **WANT_PICTURE)
        assert refused(failed, 502) == {"error": "NSFW prompt", "jobId": held.id, "status": "FAILED"}
        cancelled, held = await ended(archive, how={"status": "CANCELLED"}, **WANT_PICTURE)
        assert (refused(cancelled, 409)["jobId"], cancelled.json()["status"]) == (held.id, "CANCELLED")


async def test_with_the_archive_off_the_way_leads_to_the_upstream(
    database_url: str, simulate: Callable[..., RunningSimulator], source: Source, tmp_path: Path
) -> None:
    async with archiving(database_url, simulate, folder_place(tmp_path)) as archive:
        archive.service.ctx.objects = None
        url = source.serve("a.png", PICTURE)
        answer, _ = await ended(archive, {"images": [url]}, **WANT_PICTURE)
        assert (answer.status_code, answer.headers["Location"]) == (303, url)
        answer, _ = await ended(archive, {"images": []}, **WANT_PICTURE)
        refused(answer, 406)


async def test_one_line_of_curl_makes_a_picture(
    database_url: str, simulate: Callable[..., RunningSimulator], tmp_path: Path
) -> None:
    curl = shutil.which("curl")
    if curl is None:
        assert os.environ.get("CI") != "true", "curl is not on the PATH"
        pytest.skip("curl is not on the PATH")
    async with archiving(database_url, simulate, folder_place(tmp_path), hold=False) as archive:
        service, picture = archive.service, tmp_path / "picture.png"
        headers = (f"X-API-Key: {service.caller.key}", "Content-Type: application/json", *WANT)
        process = await asyncio.create_subprocess_exec(
            *(curl, "-sS", "--fail", "--noproxy", "*", "-L", f"{service.url}/v2/images/generate"),
            *(part for header in headers for part in ("-H", header)),
            *("-d", json.dumps(FLUX), "-o", str(picture)),
            stderr=asyncio.subprocess.PIPE,
        )
        _, complaint = await asyncio.wait_for(process.communicate(), 50)
        assert process.returncode == 0, complaint.decode()
        (job,) = (await service.caller.http.get("/v2/jobs")).json()["jobs"]
        assert picture.read_bytes() == (await archive.get(job["files"][0]["url"])).content
        assert picture.read_bytes()[:3] == b"\xff\xd8\xff"


# How waiting ends


async def test_a_revoked_key_waits_no_longer(archive: Archive) -> None:
    caller = await archive.service.new_caller("tests", ("submit",))
    task, held = await waiting(archive, caller, **WAIT)
    async with archive.service.ctx.db.transaction() as tx:
        await revoke_key(tx, caller.key_id, archive.service.ctx.now())
    refused(await asyncio.wait_for(task, 30), 401)
    assert await listeners(archive.service, held.id) == 0


async def test_a_shutdown_answers_whoever_waits_at_once(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LOOK_AGAIN_SECONDS", 60)
    task, held = await waiting(archive, **WANT_PICTURE)
    archive.service.ctx.begin_closing()
    answer = await asyncio.wait_for(task, 30)
    assert answer.status_code == 202
    assert answer.json()["jobId"] == held.id


async def test_who_waits_holds_no_connection_to_the_database(
    database_url: str, simulate: Callable[..., RunningSimulator], tmp_path: Path
) -> None:
    async with archiving(
        database_url, simulate, folder_place(tmp_path), pool_size=2, sim={"max_concurrent_jobs": 30}
    ) as archive:
        service = archive.service
        tasks = [asyncio.create_task(service.caller.submit(FLUX | {"prompt": str(n)}, **WAIT)) for n in range(20)]
        waiters = service.ctx.notify._waiters

        async def jobs_waited_for() -> int:
            return sum(topic.startswith("job:") for topic in waiters)

        await eventually(jobs_waited_for, lambda count: count == 20)
        assert not any(task.done() for task in tasks)
        for _ in range(20):
            assert (await service.caller.http.get("/v2/jobs")).status_code == 200
        for job in (await asyncio.to_thread(archive.simulator.ask, "books?part=jobs"))["jobs"]:
            await tell(archive.simulator, f"jobs/{job['job_id']}/finish")
        service.ctx.begin_closing()
        answers = await asyncio.wait_for(asyncio.gather(*tasks), 30)
        assert {answer.status_code for answer in answers} <= {200, 202}


# What is read from headers

WAITS: Final = {
    "wait=5": 5,
    "Wait=5": 5,
    'wait="5"': 5,
    "wait = 5": 5,
    " wait=5 ; why=x": 5,
    "return=minimal, wait=7, respond-async": 7,
    "wait=0": 0,
    "wait=300": LONGEST_WAIT_SECONDS,
    "wait=301": LONGEST_WAIT_SECONDS,
    "wait=999999999": LONGEST_WAIT_SECONDS,
    "wait=99999999999999999999999999": LONGEST_WAIT_SECONDS,
    "wait=-1": None,
    "wait=": None,
    "wait": None,
    "wait=1.5": None,
    "wait=1e2": None,
    "wait=nan": None,
    "wait=inf": None,
    "waits=5": None,
    "": None,
}


@pytest.mark.parametrize("preference", WAITS)
def test_a_wait_is_read_as_the_rfc_has_it_and_what_cannot_be_read_is_none(preference: str) -> None:
    assert Wish.parse(Headers({"prefer": preference})).wait_seconds == WAITS[preference]


words = st.one_of(
    st.text(), st.from_regex(r'[Ww]ait ?= ?"?[0-9]{0,30}"?(;.*)?'), st.sampled_from(["respond-async", "image/*", ","])
)
values = st.lists(words, max_size=4).map(",".join).map(lambda text: text.encode("utf-8"))


@given(st.lists(st.tuples(st.sampled_from([b"prefer", b"accept", b"x"]), values), max_size=5))
def test_whatever_headers_say_a_wish_is_read(raw: list[tuple[bytes, bytes]]) -> None:
    wish = Wish.parse(Headers(raw=raw))
    assert wish.wait_seconds is None or 0 <= wish.wait_seconds <= LONGEST_WAIT_SECONDS
    assert all(each.startswith(("image/", "video/", "audio/")) for each in wish.types)
