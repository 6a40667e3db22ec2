"""Callbacks: a caller's own `webhook_url` is called as Apiframe calls it, so that what verifies Apiframe's verifies ours."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Any

import pytest

from app.deliveries import deliver
from app.simulator.server import RunningSimulator
from app.teams.keys import revoke_key
from tests.deliveries.rows import deliveries
from tests.harness import FLUX, FrozenClock, HeldJob, Service, held_job, post_webhook
from tests.receivers import Received, Receiver
from tests.simulator.walks import sign

Simulate = Callable[..., RunningSimulator]


@pytest.fixture
def simulator(simulate: Simulate) -> RunningSimulator:
    return simulate(hold=True)


@pytest.fixture
async def quiet(serve: Callable[..., Any], simulator: RunningSimulator) -> Service:
    started: Service = await serve(simulator, loops=False)
    started.ctx.clock = FrozenClock()
    return started


async def held(service: Service, simulator: RunningSimulator, receiver: Receiver, **callback: Any) -> HeldJob:
    """A job with a callback, which the upstream holds."""
    spelling = callback.pop("spelling", "webhook_url")
    return await held_job(service, simulator, body=FLUX | {spelling: receiver.url} | callback)


async def say(service: Service, job: HeldJob, event: str, **said: Any) -> None:
    body = job.says(event, **said)
    assert (await post_webhook(service, job.url, body, sign(body))).status_code == 200
    service.ctx.clock.advance(2)  # type: ignore[attr-defined]  # progress is told once a second at most


def verify(received: Received, api_key: str) -> None:
    """The check of Apiframe's documentation, by a consumer that holds the key it submits with."""
    secret = hashlib.sha256(api_key.encode()).digest()
    expected = "sha256=" + hmac.new(secret, received.body, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(received.headers["x-webhook-signature"], expected)


@pytest.mark.parametrize("spelling", ["webhook_url", "webhookUrl"])
async def test_a_callback_is_what_apiframe_would_send_about_our_job(
    quiet: Service, simulator: RunningSimulator, receiver: Receiver, spelling: str
) -> None:
    job = await held(quiet, simulator, receiver, spelling=spelling)
    result = {"images": ["https://files.example/1.png"]}
    await say(quiet, job, "progress", progress=45)
    await deliver.run_once(quiet.ctx)
    await say(quiet, job, "completed", result=result, creditCost=10, completedAt="2026-03-01T12:00:00.000Z")
    await deliver.run_once(quiet.ctx)

    progress, completed = receiver.received
    assert progress.event == {
        "event": "progress",
        "jobId": job.id,
        "status": "PROCESSING",
        "progress": 45,
        "model": FLUX["model"],
    }
    assert completed.event == {
        "event": "completed",
        "jobId": job.id,
        "status": "COMPLETED",
        "progress": 100,
        "result": result,
        "model": FLUX["model"],
        "creditCost": 10,
        "completedAt": "2026-03-01T12:00:00.000Z",
    }
    for received in receiver.received:
        verify(received, quiet.caller.key)
        assert received.headers["x-webhook-event"] == received.event["event"]
        assert "webhook-id" not in received.headers
    assert (await quiet.caller.read(job.id))["webhookStatus"] == "delivered"


async def test_a_failure_is_called_back_with_its_reason(
    quiet: Service, simulator: RunningSimulator, receiver: Receiver
) -> None:
    job = await held(quiet, simulator, receiver, webhookEvents=["failed"])
    await say(quiet, job, "progress", progress=45)
    await say(quiet, job, "failed", error="The prompt was refused")
    await deliver.run_once(quiet.ctx)

    (received,) = receiver.received
    assert received.event == {
        "event": "failed",
        "jobId": job.id,
        "status": "FAILED",
        "error": "The prompt was refused",
        "model": FLUX["model"],
    }


async def test_a_job_that_is_cancelled_is_called_back_as_failed_with_the_status_that_says_so(
    quiet: Service, receiver: Receiver
) -> None:
    job_id = await quiet.caller.accepted(FLUX | {"webhookUrl": receiver.url}, Prefer="respond-async")
    await quiet.caller.http.post(f"/v1/jobs/{job_id}/cancel")
    await deliver.run_once(quiet.ctx)

    assert (receiver.received[0].event["event"], receiver.received[0].event["status"]) == ("failed", "CANCELLED")


async def test_only_the_events_that_were_asked_for_are_called_back(
    quiet: Service, simulator: RunningSimulator, receiver: Receiver
) -> None:
    job = await held(quiet, simulator, receiver, webhookEvents=["progress"])
    await say(quiet, job, "progress", progress=45)
    await deliver.run_once(quiet.ctx)
    await say(quiet, job, "completed", creditCost=10)
    await deliver.run_once(quiet.ctx)

    assert [one.event["event"] for one in receiver.received] == ["progress"]


async def test_a_progress_callback_is_never_tried_again(
    quiet: Service, simulator: RunningSimulator, receiver: Receiver
) -> None:
    receiver.answers = [500]
    job = await held(quiet, simulator, receiver)
    await say(quiet, job, "progress", progress=45)
    await deliver.run_once(quiet.ctx)

    (row,) = await deliveries(quiet)
    assert (row.status, row.due_at) == ("dropped", None)
    assert (await quiet.caller.read(job.id))["webhookStatus"] == "pending"


async def test_a_progress_callback_is_dropped_once_the_job_is_over(
    quiet: Service, simulator: RunningSimulator, receiver: Receiver
) -> None:
    job = await held(quiet, simulator, receiver)
    await say(quiet, job, "progress", progress=45)
    await say(quiet, job, "completed", creditCost=10)
    await deliver.run_once(quiet.ctx)

    assert [one.event["event"] for one in receiver.received] == ["completed"]
    assert sorted(row.status for row in await deliveries(quiet)) == ["delivered", "dropped"]


async def test_a_callback_is_signed_with_the_submitting_key_though_that_was_revoked_since(
    quiet: Service, simulator: RunningSimulator, receiver: Receiver
) -> None:
    job = await held(quiet, simulator, receiver)
    async with quiet.ctx.db.transaction() as tx:
        assert await revoke_key(tx, quiet.caller.key_id, quiet.ctx.now())
    await say(quiet, job, "completed", creditCost=10)
    await deliver.run_once(quiet.ctx)

    verify(receiver.received[0], quiet.caller.key)


async def test_a_completed_callback_that_fails_is_tried_again_and_the_job_says_how_it_went(
    quiet: Service, simulator: RunningSimulator, receiver: Receiver
) -> None:
    receiver.answers = [500]
    job = await held(quiet, simulator, receiver, webhookEvents=["completed"])
    await say(quiet, job, "completed", creditCost=10)
    await deliver.run_once(quiet.ctx)
    assert (await quiet.caller.read(job.id))["webhookStatus"] == "pending"
    quiet.ctx.clock.advance(10)  # type: ignore[attr-defined]
    await deliver.run_once(quiet.ctx)

    assert (await quiet.caller.read(job.id))["webhookStatus"] == "delivered"
    assert len({received.body for received in receiver.received}) == 1


async def test_a_caller_that_was_refused_is_not_called_back(
    serve: Callable[..., Any], simulate: Simulate, receiver: Receiver
) -> None:
    service = await serve(simulate(credits=0), loops=False)
    assert (await service.caller.submit(FLUX | {"webhook_url": receiver.url})).status_code == 402

    assert await deliver.run_once(service.ctx) == 0
    assert receiver.received == []
