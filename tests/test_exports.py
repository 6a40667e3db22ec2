"""Exports: all that a filter stands for, page by page, cut off visibly where it breaks, and over when nobody reads on."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

import asyncpg
import httpx
import pytest
from sqlalchemy import text

from app.db import plain_url
from app.events import feed
from app.jobs import exporting, finding
from app.simulator.server import RunningSimulator
from tests.harness import Caller, Service, eventually, refused
from tests.statements import listening

JOBS: Final = 3000

COPY_JOBS: Final = text(
    """
    WITH made AS (
        INSERT INTO jobs (id, team_id, key_id, created_at, updated_at, operation, model, input, metadata, status,
            completed_at, upstream_account, wire_body)
        SELECT gen_random_uuid(), team_id, key_id, created_at - n * interval '1 s', updated_at, operation, model, input,
            jsonb_build_object('n', n), 'COMPLETED', now(), upstream_account, wire_body
        FROM jobs CROSS JOIN generate_series(1, :count) AS n WHERE id = :id
        RETURNING id, team_id
    )
    INSERT INTO events (id, at, sequence, type, team_id, job_id, data)
    SELECT gen_random_uuid(), now(), nextval('event_numbers'), 'job.queued', team_id, id, '{}' FROM made
    """
)


@pytest.fixture
async def full(serve: Callable[..., Any], simulator: RunningSimulator) -> Service:
    """A service with some thousand jobs and events, which sends nothing by itself."""
    service: Service = await serve(simulator, loops=False)
    body = {"model": "midjourney", "prompt": '=1+1, "quoted"\nand more'}
    job_id = await service.caller.accepted(body | {"metadata": {"n": "@SUM"}}, Prefer="respond-async")
    async with service.ctx.db.transaction() as tx:
        await tx.execute(COPY_JOBS, {"id": job_id, "count": JOBS - 1})
    return service


def rows_of(answer: httpx.Response) -> list[dict[str, Any]]:
    """The lines of an export in JSON."""
    assert answer.status_code == 200, answer.text[:500]
    assert answer.text.endswith("\n")
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_all_jobs_of_a_filter_come_as_lines_or_as_csv(full: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "PAGE", 700)
    read = full.caller.http
    jobs = rows_of(await read.get("/v2/jobs", params={"format": "jsonl"}))
    table = await read.get("/v2/jobs", headers={"Accept": "text/csv, */*"})
    cells = list(csv.DictReader(io.StringIO(table.text, newline="")))

    assert len({job["id"] for job in jobs}) == len(jobs) == JOBS
    assert [job["createdAt"] for job in jobs] == sorted((job["createdAt"] for job in jobs), reverse=True)
    assert jobs[0] | {"team": None} == (await full.caller.read(jobs[0]["id"])) | {"team": None}
    assert jobs[0]["team"] == "tests"
    assert [row["id"] for row in cells] == [job["id"] for job in jobs]
    assert list(cells[0]) == list(exporting.COLUMNS)
    assert json.loads(cells[0]["input"]) == jobs[0]["input"]
    assert (cells[0]["error"], cells[0]["test"], cells[1]["status"]) == ("", "false", "COMPLETED")
    assert table.headers["Content-Type"].startswith("text/csv")
    assert table.headers["Content-Disposition"] == 'attachment; filename="jobs.csv"'
    assert "\r\n" in table.text

    few = rows_of(await read.get("/v2/jobs", params={"limit": 1500}, headers={"Accept": "application/x-ndjson"}))
    assert [job["id"] for job in few] == [job["id"] for job in jobs[:1500]]
    queued = rows_of(await read.get("/v2/jobs", params={"format": "jsonl", "status": "QUEUED"}))
    assert [job["id"] for job in queued] == [jobs[0]["id"]]
    nothing = await read.get("/v2/jobs", params={"format": "csv", "status": "FAILED"})
    assert nothing.text == ",".join(exporting.COLUMNS) + "\r\n"
    assert (await read.get("/v2/jobs", params={"format": "json"})).json()["hasMore"] is True


async def test_what_cannot_be_exported_is_refused_before_anything_is_sent(full: Service) -> None:
    async def get(path: str, **query: str) -> httpx.Response:
        return await full.caller.http.get(path, params=query)

    assert list(refused(await get("/v2/jobs", format="xml"), 400)["details"]) == ["format"]
    for limit in ("0", "-1", "x", ""):
        assert list(refused(await get("/v2/jobs", format="csv", limit=limit), 400)["details"]) == ["limit"]
    assert list(refused(await get("/v2/jobs", format="csv", status="x"), 400)["details"]) == ["status"]
    refused(await get("/v2/jobs", format="csv", team="*"), 403)
    refused(await get("/v1/events", format="csv"), 403)
    subscriber = await full.new_caller("tests", scopes=("subscribe",))
    beyond = await subscriber.http.get("/v1/events", params={"format": "csv", "after": "999999"})
    assert list(refused(beyond, 400)["details"]) == ["after"]


async def test_events_and_usage_are_exported_alike(full: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "PAGE", 700)
    subscriber = await full.new_caller("tests", scopes=("subscribe", "read"))
    other = await full.new_caller("others", scopes=("subscribe",))
    read = subscriber.http
    events = rows_of(await read.get("/v1/events", params={"format": "jsonl"}))
    table = await read.get("/v1/events", params={"format": "csv", "after": events[9]["sequence"], "limit": 20})
    cells = list(csv.DictReader(io.StringIO(table.text, newline="")))

    assert len(events) == JOBS
    assert [each["sequence"] for each in events] == sorted({each["sequence"] for each in events})
    assert [row["id"] for row in cells] == [each["id"] for each in events[10:30]]
    assert list(cells[0]) == list(feed.COLUMNS)
    assert (await read.get("/v1/events", params={"format": "jsonl", "after": "latest"})).text == ""
    assert (await other.http.get("/v1/events", params={"format": "jsonl"})).text == ""
    groups = await read.get("/v1/usage", params={"format": "jsonl", "group_by": "model"})
    assert (groups.status_code, groups.headers["Content-Type"]) == (200, "application/jsonl")


async def read_all(caller: Caller, while_reading: Callable[[], Awaitable[Any]]) -> None:
    """Read an export to its end, and do something else after each part of it."""
    async with caller.http.stream("GET", "/v2/jobs", params={"format": "jsonl", "scope": "team"}) as answer:
        async for _ in answer.aiter_bytes():
            await while_reading()


@pytest.fixture
def go_on(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Holds exports up after their first page. It would be nothing to the server to have sent them whole."""
    go_on, pages = asyncio.Event(), 0

    async def find_when_let(*args: Any, **kwargs: Any) -> Any:
        nonlocal pages
        pages += 1
        if pages > 1:
            await go_on.wait()
        return await finding.find_jobs(*args, **kwargs)

    monkeypatch.setattr(exporting, "find_jobs", find_when_let)
    return go_on


async def test_an_export_that_breaks_is_cut_off_and_not_ended(
    full: Service, go_on: asyncio.Event, monkeypatch: pytest.MonkeyPatch, postgres_url: str, database_url: str
) -> None:
    monkeypatch.setattr(exporting, "PAGE", 50)
    name = database_url.partition("?")[0].rpartition("/")[2]

    async def cut() -> None:
        outside = await asyncpg.connect(plain_url(postgres_url))
        await outside.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await outside.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        await outside.close()
        go_on.set()

    with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
        await read_all(full.caller, cut)


async def test_an_export_ends_with_the_key_that_asked_for_it(
    full: Service, go_on: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "PAGE", 1)
    reader = await full.new_caller("tests", scopes=("read",))

    async def revoke() -> None:
        async with full.ctx.db.transaction() as tx:
            await tx.execute(text("UPDATE api_keys SET revoked_at = now() WHERE id = :id"), {"id": reader.key_id})
        go_on.set()

    with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
        await read_all(reader, revoke)


async def test_a_client_that_goes_away_ends_the_work(full: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "PAGE", 2)
    seen = 0

    def count(*_: Any) -> None:
        nonlocal seen
        seen += 1

    async with full.caller.http.stream("GET", "/v2/jobs", params={"format": "jsonl"}) as answer:
        await anext(answer.aiter_bytes())

    async def settled() -> bool:
        before = seen
        await asyncio.sleep(0.2)
        return seen == before

    with listening(full.ctx.db, count):
        assert await eventually(settled)
    assert seen < JOBS // 2
