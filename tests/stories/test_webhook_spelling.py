"""The upstream's spelling of the webhook field is found out at the cost of free 400s, never of a job."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest

from app.clock import SettableClock
from app.jobs import dispatch, upstream
from app.simulator.server import RunningSimulator
from tests.harness import FLUX, books, eventually, settled, tell

STYLES = ("field", "zod", "zod3")


@pytest.mark.parametrize(
    ("field", "style", "document"),
    [*itertools.product(("webhook_url", "webhookUrl"), STYLES, ("absent",)), ("webhookUrl", "zod", "served")],
)
async def test_either_spelling_is_found_and_remembered_without_losing_or_doubling_a_job(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator], field: str, style: str, document: str
) -> None:
    simulator = simulate(webhook_field=field, unknown_key_style=style, document=document)
    service = await serve(simulator, loops=False)
    if document == "served":
        await upstream.refresh_once(service.ctx)

    for _ in range(3):
        job_id = await service.caller.accepted(FLUX)
        assert (await service.caller.read(job_id, wait=50))["status"] == "COMPLETED"
        await settled(service)

    seen = await books(simulator)
    guessed_right = field == "webhook_url" or document == "served"
    assert seen["counters"]["accepted"] == 3
    assert seen["counters"]["submissions"] == (3 if guessed_right else 4)
    assert all(field in json.loads(job["body"]) for job in seen["jobs"])
    (account,) = await service.rows("SELECT webhook_field, webhook_events FROM upstream_accounts")
    assert account == (field, True)


async def test_an_upstream_that_does_not_know_webhook_events_is_asked_without_them(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(webhook_field="webhookUrl", webhook_events_known=False, document="absent")
    service = await serve(simulator, loops=False)

    for _ in range(2):
        job_id = await service.caller.accepted(FLUX)
        assert (await service.caller.read(job_id, wait=50))["status"] == "COMPLETED"
        await settled(service)

    seen = await books(simulator)
    assert seen["counters"]["accepted"] == 2
    assert all("webhookEvents" not in json.loads(job["body"]) for job in seen["jobs"])
    # The first job learned of both; the second knew.
    assert seen["counters"]["submissions"] <= 4


async def test_an_upstream_that_refuses_every_webhook_still_gets_the_job_and_is_polled(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(webhook_field="none", document="absent")
    service = await serve(simulator, reconcile_after_seconds=0.2)

    job_id = await service.caller.accepted(FLUX)

    assert (await service.caller.read(job_id, wait=50))["status"] == "COMPLETED"
    (job,) = (await books(simulator))["jobs"]
    assert json.loads(job["body"]) == FLUX

    async def notes() -> list[str]:
        degraded: list[str] = (await service.caller.http.get("/readyz")).json()["degraded"]
        return degraded

    await eventually(notes, lambda seen: any("webhook URL is refused" in note for note in seen))


async def test_a_pinned_spelling_is_used_whatever_the_document_says(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(webhook_field="both")
    service = await serve(simulator, loops=False, webhook_field="webhook_url")
    await upstream.refresh_once(service.ctx)

    await service.caller.accepted(FLUX)

    (job,) = (await books(simulator))["jobs"]
    assert "webhook_url" in json.loads(job["body"])


async def test_each_spelling_goes_under_a_key_of_its_own(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(webhook_field="webhookUrl", document="absent", hold=True)
    service = await serve(simulator, loops=False)

    job_id = await service.caller.accepted(FLUX)

    seen = await eventually(lambda: books(simulator), lambda seen: seen["jobs"])
    assert [one["idempotency_key"] for one in seen["submissions"]] == [job_id, f"{job_id}:2"]


async def test_the_first_jobs_of_all_wait_for_the_upstreams_word_on_the_spelling(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    """A job whose first answer is lost keeps its spelling: a wrong guess would hold its slot for as long as that lasts."""
    simulator = simulate(webhook_field="webhookUrl", hold=True)
    service = await serve(simulator, loops=False)
    service.ctx.clock = clock = SettableClock()
    await tell(simulator, "faults", next=["accept_then_error", "server_error", "accept_then_cut"])

    jobs = await asyncio.gather(*(service.caller.accepted(FLUX) for _ in range(3)))
    clock.advance(120)
    await dispatch.run_once(service.ctx)

    for job_id in jobs:
        assert (await service.job(job_id)).upstream_id is not None
    assert "400" not in (await books(simulator))["counters"]["refused"]


async def test_an_upstream_that_keeps_its_document_back_is_sent_jobs_all_the_same(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(webhook_field="webhook_url", hold=True)
    service = await serve(simulator, loops=False)
    await tell(simulator, "faults", down=1)
    job_id = await service.caller.accepted(FLUX)
    for _ in range(upstream.INTRODUCTIONS - 2):
        assert await dispatch.run_once(service.ctx) == 0
    assert (await service.job(job_id)).ambiguous_since is None, "it may still be cancelled"

    assert await dispatch.run_once(service.ctx) == 1

    assert (await service.job(job_id)).ambiguous_since is not None
