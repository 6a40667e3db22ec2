"""The archive in a process of its own: killed in the middle of a file, within its memory, and beside webhooks."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest

from app.jobs.archiving import SHARE
from app.simulator.server import RunningSimulator
from tests.media import Film, jpeg
from tests.objects import SIGNED, S3Server, s3_place
from tests.processes.harness import (
    Program,
    client,
    eventually,
    in_front_of,
    query,
    reachable,
    read,
    ready,
    submit,
    upstream_jobs,
)
from tests.sources import Gate, Source, sourcing

OBJECT = "SELECT object FROM files WHERE status = 'stored'"
STATUSES = "SELECT status FROM files ORDER BY job_id, position"
FETCHED = 6_000_000
"""Bytes that have come when the process is killed: more than a part of an upload."""


@pytest.fixture
def settings(simulate: Callable[..., RunningSimulator], database_url: str) -> dict[str, Any]:
    """A service that keeps files in its own data folder, in front of a simulator whose jobs end when they are told to."""
    simulator = simulate(hold=True, max_concurrent_jobs=1_000)
    wanted = in_front_of(simulator, database_url, allowed_targets="127.0.0.0/8", max_in_flight=1_000)
    return wanted | {"simulator": simulator}


def finish(simulator: RunningSimulator, job_id: str, result: Any) -> None:
    """Complete a job, by our id, without a word: the service finds it by asking."""
    (upstream_id,) = eventually(
        lambda: [job["job_id"] for job in upstream_jobs(simulator) if job["idempotency_key"] == job_id]
    )
    simulator.tell(f"jobs/{upstream_id}/finish", result=result)


@pytest.mark.timeout(120)
def test_a_service_that_is_killed_in_the_middle_of_a_file_keeps_it_after_all(
    launch: Callable[..., Program], settings: dict[str, Any], database_url: str, folder: Path
) -> None:
    simulator = settings.pop("simulator")
    kept = folder / ".framehook" / "files"
    films = [Film(9_000_000, seed=number) for number in range(SHARE)]

    async def story() -> None:
        async with sourcing() as source:
            gate = Gate(after=FETCHED)
            urls = [source.serve(f"{number}.mp4", film, gate=gate) for number, film in enumerate(films)]
            await asyncio.to_thread(kill_in_the_middle, source, urls)
            gate.released.set()
            await asyncio.to_thread(find_everything)

    def kill_in_the_middle(source: Source, urls: list[str]) -> None:
        service = launch("serve", **settings)
        with client(ready(service)) as caller:
            job_id = submit(caller)
            finish(simulator, job_id, {"videos": urls})
            eventually(lambda: len({asked.path for asked in source.requests if asked.sent >= FETCHED}) == len(urls))
            eventually(lambda: len(list(kept.rglob("*#1"))) == len(urls))  # what is to be left behind
            assert query(database_url, STATUSES) == ["pending"] * SHARE
            assert read(caller, job_id)["files"] == []
        service.kill_all()
        assert len(list(kept.rglob("*#1"))) == len(urls)

    def find_everything() -> None:
        # As if the minute had passed for which the dead process has the files.
        query(database_url, "UPDATE files SET due_at = now() RETURNING id")
        service = launch("serve", **settings)
        with client(ready(service)) as caller:
            eventually(lambda: query(database_url, STATUSES) == ["stored"] * SHARE)
            (job,) = caller.get("/v2/jobs").json()["jobs"]
            assert [file["sha256"] for file in job["files"]] == [film.sha256 for film in films]
            for file, film in zip(job["files"], films, strict=True):
                body = caller.get(f"/v1/files/{file['id']}").content
                assert (len(body), hashlib.sha256(body).hexdigest()) == (film.size, film.sha256)
        eventually(lambda: len([path for path in kept.rglob("*") if path.is_file()]) == len(films))
        assert service.stop() == 0

    asyncio.run(story())


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("where", ["folder", "s3"])
def test_a_film_of_a_gigabyte_is_kept_in_little_memory(
    launch: Callable[..., Program], settings: dict[str, Any], database_url: str, tmp_path: Path, where: str
) -> None:
    simulator = settings.pop("simulator")
    film = Film(1_000_000_000)

    async def story() -> None:
        async with sourcing() as source:
            url = source.serve("film.mp4", film, piece_bytes=262_144)
            if where == "folder":
                await asyncio.to_thread(keep, url, {}, None)
                return
            server = await asyncio.to_thread(S3Server, tmp_path)
            try:
                async with s3_place(server) as place:
                    endpoint = {"AWS_ENDPOINT_URL": server.url, "archive_url": place.url}
                    direct = f"{server.url}/{place.url.removeprefix('s3://')}/"
                    await asyncio.to_thread(keep, url, {**place.environment, **endpoint}, direct)
            finally:
                server.close()

    def keep(url: str, storage: dict[str, str], direct: str | None) -> None:
        service = launch("serve", **settings, **storage)
        with client(ready(service), timeout=300) as caller:
            small = submit(caller, "to be warm")
            finish(simulator, small, {"images": [url.replace("film.mp4", "none.png")]})
            eventually(lambda: read(caller, small)["status"] == "COMPLETED")
            process = psutil.Process(service.pid)
            before = most = process.memory_info().rss
            job_id = submit(caller)
            began = time.monotonic()
            finish(simulator, job_id, {"videoUrl": url})
            while not (files := read(caller, job_id)["files"]):
                most = max(most, process.memory_info().rss)
                assert time.monotonic() - began < 300
                time.sleep(0.02)
            took = time.monotonic() - began
            # moto reads the whole object for every part of it that is asked for: it is asked for the whole, once.
            whole = f"/v1/files/{files[0]['id']}" if direct is None else direct + query(database_url, OBJECT)[0]
            hashed = hashlib.sha256()
            with caller.stream("GET", whole, headers=SIGNED) as answer:
                for piece in answer.iter_bytes(262_144):
                    hashed.update(piece)
                    most = max(most, process.memory_info().rss)
            print(f"{where}: {before / 1e6:.0f} MB before, {most / 1e6:.0f} MB at most, kept within {took:.1f} s")
            assert files[0]["sha256"] == hashed.hexdigest() == film.sha256
            assert most - before < 64_000_000

    asyncio.run(story())


PICTURES = 200
PER_SECOND = 50
LISTENERS = 20
"""Jobs whose progress is told in the meantime."""


@pytest.mark.long
@pytest.mark.timeout(300)
def test_two_hundred_pictures_at_once_do_not_starve_webhooks(
    launch: Callable[..., Program], simulate: Callable[..., RunningSimulator], database_url: str
) -> None:
    simulator = simulate(hold=True, max_concurrent_jobs=1_000)
    service = launch("serve", **reachable(simulator, database_url, max_in_flight=1_000, allowed_targets="127.0.0.0/8"))
    with client(ready(service)) as caller:
        for number in range(PICTURES + LISTENERS):
            submit(caller, f"picture {number}", Prefer="respond-async")
        eventually(lambda: len(upstream_jobs(simulator)) == PICTURES + LISTENERS, seconds=60)
    jobs = upstream_jobs(simulator)
    picture = jpeg(1024, 1024)

    async def story() -> None:
        async with sourcing() as source, httpx.AsyncClient(trust_env=False) as http:
            urls = [source.serve(f"{number}.jpg", picture) for number in range(PICTURES)]
            alone = await measure(http, jobs[PICTURES:], seconds=10)
            finishing = asyncio.create_task(asyncio.to_thread(finish_all, urls))
            began = time.monotonic()
            beside: list[float] = []
            while await asyncio.to_thread(query, database_url, KEPT) != [PICTURES]:
                beside += await measure(http, jobs[PICTURES:], seconds=1)
                assert time.monotonic() - began < 120
            await finishing
            print(
                f"webhooks at {PER_SECOND}/s: {shown(alone)} alone; {shown(beside)} beside {PICTURES} pictures of"
                f" {len(picture):,} bytes, kept within {time.monotonic() - began:.1f} s"
            )
            assert percentile(beside, 99) < 0.25

    def finish_all(urls: list[str]) -> None:
        for job, url in zip(jobs, urls, strict=False):
            simulator.tell(f"jobs/{job['job_id']}/finish", result={"images": [url]})

    asyncio.run(story())


KEPT = "SELECT count(*) FROM files WHERE status = 'stored'"


async def measure(http: httpx.AsyncClient, jobs: list[dict[str, Any]], *, seconds: int) -> list[float]:
    """Post signed webhooks at a steady pace, whenever the ones before are answered; return how long each took."""
    start = time.monotonic()

    async def post(number: int) -> float:
        await asyncio.sleep(max(start + number / PER_SECOND - time.monotonic(), 0))
        job = jobs[number % len(jobs)]
        body = json.dumps({"event": "progress", "jobId": job["job_id"], "progress": 1, "salt": uuid4().hex}).encode()
        signature = hmac.new(hashlib.sha256(job["api_key"].encode()).digest(), body, "sha256").hexdigest()
        began = time.monotonic()
        answer = await http.post(job["webhook_url"], content=body, headers={"X-Webhook-Signature": signature})
        assert answer.status_code == 200
        return time.monotonic() - began

    return await asyncio.gather(*(post(number) for number in range(seconds * PER_SECOND)))


def percentile(seconds: list[float], which: int) -> float:
    return statistics.quantiles(seconds, n=100)[which - 1]


def shown(seconds: list[float]) -> str:
    return f"p50 {percentile(seconds, 50) * 1e3:.1f} ms, p99 {percentile(seconds, 99) * 1e3:.1f} ms"
