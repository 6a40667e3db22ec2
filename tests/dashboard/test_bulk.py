"""One thing done to many jobs from the dashboard: seen before, done once, and told of."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from html import unescape
from typing import Any, Final

import httpx
import pytest

from app.jobs import bulk
from app.simulator.server import RunningSimulator
from tests.dashboard.operators import Operator, sign_in
from tests.dashboard.pages import text_of
from tests.harness import FLUX, Service

LATER: Final = {"Prefer": "respond-async"}


@pytest.fixture
async def quiet(serve: Callable[..., Any], simulator: RunningSimulator) -> AsyncIterator[tuple[Service, Operator]]:
    service: Service = await serve(simulator, loops=False)
    async with AsyncExitStack() as stack:
        yield service, await sign_in(stack, service)


async def cancelled(service: Service, count: int) -> list[str]:
    jobs = [await service.caller.accepted(FLUX, **LATER) for _ in range(count)]
    for job_id in jobs:
        assert (await service.caller.http.post(f"/v1/jobs/{job_id}/cancel")).status_code == 200
    return jobs


def form_of(answer: httpx.Response) -> dict[str, list[str]]:
    """The hidden fields of the form that confirms."""
    assert answer.status_code == 200, answer.text
    (html,) = re.findall(r'<form method="post" action="/ops/jobs/bulk/confirm">.*?</form>', answer.text, re.DOTALL)
    fields: dict[str, list[str]] = {}
    for name, value in re.findall(r'name="([^"]+)" value="([^"]*)"', html):
        fields.setdefault(name, []).append(unescape(value))
    return fields


def figures(answer: httpx.Response) -> list[str]:
    """What the page of the outcome counts."""
    assert answer.status_code == 200, answer.text
    return [
        text_of(each)
        for each in re.findall(r'<div class="figure[ "].*?</div>\n</div>|<div class="value">.*?</div>', answer.text)
    ]


async def send(operator: Operator, fields: dict[str, list[str]]) -> httpx.Response:
    return await operator.http.post("/ops/jobs/bulk/confirm", data=fields)


async def test_chosen_jobs_are_tried_again_once_after_a_look(quiet: tuple[Service, Operator]) -> None:
    service, operator = quiet
    jobs = await cancelled(service, 3)
    waiting = await service.caller.accepted(FLUX, **LATER)

    look = await operator.act("/ops/jobs/bulk", on="/ops/jobs", action="retry", job=[*jobs[:2], waiting], filter="")

    assert "Try again: 2 jobs" in text_of(look.text)
    assert "Left out: 1 not over yet." in text_of(look.text)
    assert not await service.rows("SELECT 1 FROM jobs WHERE retry_of IS NOT NULL")
    fields = form_of(look)
    assert figures(await send(operator, fields)) == ["2", "1", "0", "0"]
    assert figures(await send(operator, fields)) == ["0", "3", "0", "0"]
    made = await service.rows("SELECT retry_of FROM jobs WHERE retry_of IS NOT NULL")
    assert sorted(str(row.retry_of) for row in made) == sorted(jobs[:2])


async def test_all_that_match_are_done_in_parts_without_those_that_came_later(
    quiet: tuple[Service, Operator], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, operator = quiet
    monkeypatch.setattr(bulk, "MOST_AT_ONCE", 2)
    jobs = await cancelled(service, 3)
    await service.caller.accepted(FLUX, **LATER)

    look = await operator.act(
        "/ops/jobs/bulk", on="/ops/jobs", action="retry", all="1", filter="status=CANCELLED&team=tests"
    )

    assert "Try again: 2+ jobs" in text_of(look.text)
    await cancelled(service, 1)
    first = await send(operator, form_of(look))
    assert figures(first) == ["2", "0", "0", "1"]
    second = await send(operator, form_of(first))
    assert figures(second) == ["1", "0", "0", "0"]
    assert "/ops/jobs/bulk/confirm" not in second.text
    assert 'href="/ops/jobs?status=CANCELLED&amp;team=tests"' in second.text
    made = await service.rows("SELECT retry_of FROM jobs WHERE retry_of IS NOT NULL")
    assert sorted(str(row.retry_of) for row in made) == sorted(jobs)
    noted = await service.rows(
        "SELECT action, data ->> 'jobs' AS jobs FROM audit_log WHERE action LIKE 'bulk.%' ORDER BY id"
    )
    assert [(row.action, row.jobs) for row in noted] == [("bulk.retried", "2"), ("bulk.retried", "1")]
    assert "bulk.retried" in await operator.read("/ops/audit")


async def test_a_form_that_says_nothing_is_refused_in_words(quiet: tuple[Service, Operator]) -> None:
    service, operator = quiet
    (job_id,) = await cancelled(service, 1)
    wrong: dict[str, dict[str, str]] = {
        "No jobs were chosen": {"action": "retry"},
        "There is no such action": {"action": "delete", "job": job_id},
        "Validation failed": {"action": "retry", "all": "1", "filter": "status=LOST"},
    }
    for told, fields in wrong.items():
        answer = await operator.act("/ops/jobs/bulk", on="/ops/jobs", **fields)
        assert answer.status_code == 400
        assert told in answer.text
    answer = await operator.act("/ops/jobs/bulk/confirm", on="/ops/jobs", action="retry", all="1")
    assert "This form is not complete" in answer.text
    assert (await operator.http.post("/ops/jobs/bulk/confirm", data={"action": "retry", "all": "1"})).status_code == 403
