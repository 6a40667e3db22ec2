"""The list of jobs: its filters, what they are called, how it goes on, and what it can be taken away as."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from html import unescape
from typing import Any, Final

import pytest
from sqlalchemy import text

from app.dashboard import jobs as page_of_jobs
from app.jobs import finding, indexing
from app.simulator.server import RunningSimulator
from tests.dashboard.operators import Operator, sign_in
from tests.dashboard.pages import region, text_of
from tests.harness import FLUX, Service
from tests.ops.aged import noon

LATER: Final = {"Prefer": "respond-async"}


@pytest.fixture
async def quiet(serve: Callable[..., Any], simulator: RunningSimulator) -> AsyncIterator[tuple[Service, Operator]]:
    """A service that sends nothing by itself, at noon, and somebody who looks."""
    service: Service = await serve(simulator, loops=False)
    service.ctx.clock = noon()
    async with AsyncExitStack() as stack:
        yield service, await sign_in(stack, service)


async def change(service: Service, job_id: str, assignments: str) -> None:
    async with service.ctx.db.transaction() as tx:
        await tx.execute(text(f"UPDATE jobs SET {assignments} WHERE id = :id"), {"id": job_id})


def shown(page: str) -> list[str]:
    """The jobs of a list, in its order."""
    return re.findall(r'<tr id="job-([^"]+)"', page)


def chips(page: str) -> dict[str, str]:
    """What is filtered for, and the URLs without it."""
    (html,) = re.findall(r'<ul class="chips".*?</ul>', page, re.DOTALL) or [""]
    found = re.findall(r'<a href="([^"]+)" title="Take this away">(.*?) <span', html)
    return {unescape(label): unescape(url) for url, label in found}


async def test_every_filter_finds_its_jobs_and_can_be_taken_away(quiet: tuple[Service, Operator]) -> None:
    service, operator = quiet
    other = await service.new_caller("design")
    plain = await service.caller.accepted(FLUX, **LATER)
    fox = await other.accepted(FLUX | {"prompt": "a fox & a hen", "metadata": {"order": "A 7"}}, **LATER)
    failed = await service.caller.accepted({"model": "flux-2-max", "prompt": "x"}, **LATER)
    over = "completed_at = now(), dispatch_at = NULL"
    await change(service, failed, f"status = 'FAILED', error_code = 'moderated', error = 'No <b>', {over}")
    late = await service.caller.accepted(FLUX, **LATER)
    await change(service, late, "status = 'PROCESSING', progress = 40, overdue_at = now() - interval '1 s'")
    old = await service.caller.accepted(FLUX, **LATER)
    await change(service, old, "created_at = '2026-03-01T12:00Z'")
    await indexing.index_words(service.ctx)
    asked = {
        "": [late, failed, fox, plain, old],
        "status=FAILED&status=PROCESSING": [late, failed],
        "status=FAILED,PROCESSING": [late, failed],
        "team=design": [fox],
        "model=flux-2-max": [failed],
        "operation=videos%2Fgenerate": [],
        "errorCode=moderated": [failed],
        "overdue=true": [late],
        "metadata=order%3DA+7": [fox],
        "metadata.order=A+7": [fox],
        "q=fox+hen": [fox],
        "createdBefore=2026-03-01T13:00": [old],
        "createdAfter=2026-03-01T12:00:00Z&createdBefore=2026-03-01T12:00:01Z": [old],
        "status=&team=&model=&q=&metadata=&createdAfter=": [late, failed, fox, plain, old],
    }
    for query, jobs in asked.items():
        assert shown(await operator.read(f"/ops/jobs?{query}")) == jobs, query

    page = await operator.read("/ops/jobs?status=FAILED&status=QUEUED&team=design&metadata=order%3DA+7&q=fox")
    assert list(chips(page)) == ["QUEUED", "FAILED", "team: design", "order = A 7", "words: fox"]
    assert chips(page)["FAILED"] == "/ops/jobs?status=QUEUED&team=design&metadata.order=A+7&q=fox"
    for label, url in chips(page).items():
        assert label not in chips(await operator.read(url))
    page = await operator.read("/ops/jobs")
    told = text_of(region(page, "jobs"))
    assert "a fox & a hen design" in told
    assert "PROCESSING 40 % overdue" in told
    assert 'title="No &lt;b&gt;">moderated' in page
    presets = re.findall(r'<a href="([^"]+)"[^>]*>(All|Failed today|Waiting|In flight|Overdue)</a>', page)
    found = {name: shown(await operator.read(unescape(url))) for url, name in presets}
    assert found == {
        "All": [late, failed, fox, plain, old],
        "Failed today": [failed],
        "Waiting": [fox, plain, old],
        "In flight": [late],
        "Overdue": [late],
    }
    assert "There is no team of this name" in await operator.read("/ops/jobs?team=nobody", status=400)


async def test_an_id_leads_straight_to_its_job(quiet: tuple[Service, Operator]) -> None:
    service, operator = quiet
    job_id = await service.caller.accepted(FLUX, **LATER)
    await change(service, job_id, "upstream_id = 'up-1'")
    for text_ in (job_id, job_id.upper(), "up-1"):
        answer = await operator.http.get("/ops/jobs", params={"q": f" {text_} "})
        assert (answer.status_code, answer.headers["Location"]) == (303, f"/ops/jobs/{job_id}")
    for text_ in ("up-2", "00000000-0000-7000-8000-000000000000", "a fox"):
        page = (await operator.http.get("/ops/jobs", params={"q": text_})).text
        assert "There is no job that these filters find." in page


async def test_the_list_goes_on_page_by_page_and_only_its_first_is_live(
    quiet: tuple[Service, Operator], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, operator = quiet
    monkeypatch.setattr(page_of_jobs, "SHOWN", 2)
    jobs = [await service.caller.accepted(FLUX, **LATER) for _ in range(5)]
    page = await operator.read("/ops/jobs?status=QUEUED")
    assert 'id="jobs" data-live="job.*"' in page
    seen = shown(page)
    while older := re.search(r'<a href="([^"]+)" rel="next">', page):
        page = await operator.read(unescape(older[1]))
        assert 'id="jobs" data-live' not in page
        assert 'rel="first"' in page
        seen += shown(page)
    assert seen == list(reversed(jobs))


async def test_how_far_was_looked_is_told_where_the_search_stopped(
    quiet: tuple[Service, Operator], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, operator = quiet
    wanted = await service.caller.accepted(FLUX | {"priority": 7}, **LATER)
    for _ in range(6):
        await service.caller.accepted(FLUX, **LATER)
    await change(service, wanted, "operation = 'images/edit'")
    find = finding.find_jobs
    monkeypatch.setattr(page_of_jobs, "find_jobs", lambda *given, **named: find(*given, **named, budget=3))
    monkeypatch.setattr(finding, "_find_few", _never)
    page, looks = await operator.read("/ops/jobs?operation=images/edit"), 1
    while not shown(page):
        assert re.search(r"Looked through jobs back to (just now|\d+ s ago) · go on", text_of(page))
        (on,) = re.findall(r'<a href="([^"]+)" rel="next">go on</a>', page)
        page, looks = await operator.read(unescape(on)), looks + 1
    assert (shown(page), looks) == ([wanted], 3)


async def _never(*_: object, **__: object) -> None:
    return None


async def test_the_same_filter_can_be_taken_away_as_a_file(quiet: tuple[Service, Operator]) -> None:
    service, operator = quiet
    other = await service.new_caller("design")
    await service.caller.accepted(FLUX, **LATER)
    fox = await other.accepted(FLUX | {"prompt": 'a "fox", and\nmore'}, **LATER)
    page = await operator.read("/ops/jobs?team=design&status=QUEUED&status=")
    links = [unescape(url) for url in re.findall(r'href="(/ops/jobs\.(?:csv|jsonl)[^"]*)"', page)]
    assert links == [f"/ops/jobs.{kind}?status=QUEUED&team=design" for kind in ("csv", "jsonl")]
    table, lines = [await operator.http.get(url) for url in links]
    (row,) = csv.DictReader(io.StringIO(table.text))
    assert (row["id"], row["team"], json.loads(row["input"])["prompt"]) == (fox, "design", 'a "fox", and\nmore')
    (job,) = [json.loads(line) for line in lines.text.splitlines()]
    assert (job["id"], job["team"]) == (fox, "design")
    assert table.headers["Content-Disposition"] == 'attachment; filename="jobs.csv"'
    await operator.act("/ops/sign-out")
    assert (await operator.http.get(links[0])).status_code == 303
