"""Cancel, retry and refresh: each has one outcome, whatever happens at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from app.jobs import dispatch
from app.simulator.server import RunningSimulator
from tests.harness import FLUX, Caller, Service, books, eventually, held_job, refused, tell

Serve = Callable[..., Any]
Simulate = Callable[..., RunningSimulator]


async def act(caller: Caller, job_id: str, action: str, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await caller.http.post(f"/v1/jobs/{job_id}/{action}", headers=named)


async def holding(serve: Serve, simulate: Simulate, **settings: Any) -> tuple[Service, RunningSimulator]:
    simulator = simulate(hold=True, max_concurrent_jobs=100)
    return await serve(simulator, loops=False, **settings), simulator


async def actions_of(service: Service, job_id: str) -> list[str]:
    rows = await service.rows(
        "SELECT data ->> 'action' AS action FROM steps WHERE kind = 'action' AND job_id = :id ORDER BY at", id=job_id
    )
    return [row.action for row in rows]


async def test_a_job_that_was_not_sent_is_cancelled_and_never_sent(serve: Serve, simulate: Simulate) -> None:
    service, simulator = await holding(serve, simulate)
    job_id = await service.caller.accepted(FLUX, Prefer="respond-async", Idempotency_Key="one")

    answer = await act(service.caller, job_id, "cancel")

    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["errorCode"]) == ("CANCELLED", "cancelled")
    assert await dispatch.run_once(service.ctx) == 0
    assert (await books(simulator))["counters"]["submissions"] == 0
    assert "over" in refused(await act(service.caller, job_id, "cancel"), 409)["error"]
    assert await service.caller.accepted(FLUX, Idempotency_Key="one") == job_id
    assert await actions_of(service, job_id) == ["cancel"]


async def test_a_job_that_may_have_been_received_cannot_be_cancelled(serve: Serve, simulate: Simulate) -> None:
    service, simulator = await holding(serve, simulate)
    sent = await held_job(service, simulator)
    await tell(simulator, "faults", next=["accept_then_cut"])
    ambiguous = await held_job(service, simulator)

    for job in (sent, ambiguous):
        before = await service.job(job.id)
        assert "sent already" in refused(await act(service.caller, job.id, "cancel"), 409)["error"]
        assert await service.job(job.id) == before
        assert await actions_of(service, job.id) == []


async def test_a_cancel_and_a_dispatch_at_once_have_one_outcome(serve: Serve, simulate: Simulate) -> None:
    """Whoever has the job's row first decides; the upstream's books agree with what the caller was told."""
    service, simulator = await holding(serve, simulate, max_in_flight=100)
    jobs = [await service.caller.accepted(FLUX, Prefer="respond-async") for _ in range(30)]

    answers, *_ = await asyncio.gather(
        asyncio.gather(*(act(service.caller, job_id, "cancel") for job_id in jobs)),
        *(dispatch.run_once(service.ctx) for _ in range(3)),
    )

    sent = {job["idempotency_key"] for job in (await books(simulator))["jobs"]}
    for job_id, answer in zip(jobs, answers, strict=True):
        assert answer.status_code == (409 if job_id in sent else 200), answer.text
        assert (await service.caller.read(job_id))["status"] == ("QUEUED" if job_id in sent else "CANCELLED")


@pytest.mark.parametrize("action", ["cancel", "retry", "refresh"])
async def test_other_teams_jobs_are_not_found_and_operators_reach_them_all(
    serve: Serve, simulate: Simulate, action: str
) -> None:
    service, _ = await holding(serve, simulate)
    job_id = await service.caller.accepted(FLUX, Prefer="respond-async")
    stranger = await service.new_caller("strangers")
    operator = await service.new_caller("operators", scopes=("ops",))
    reader = await service.new_caller("tests", scopes=("subscribe",))

    refused(await act(stranger, job_id, action), 404)
    refused(await act(service.caller, str(uuid4()), action), 404)
    refused(await act(service.caller, "no-id", action), 404)
    refused(await act(reader, job_id, action), 403)
    assert (await service.job(job_id)).status == "QUEUED"
    answer = await act(operator, job_id, action)
    assert answer.status_code == (409 if action == "retry" else 200)


async def test_a_failed_job_is_tried_again_as_a_new_job_with_the_same_bytes(serve: Serve, simulate: Simulate) -> None:
    service, simulator = await holding(serve, simulate)
    operator = await service.new_caller("operators", scopes=("ops",))
    body = {**FLUX, "metadata": {"campaign": "spring"}, "priority": 4, "webhook_url": "https://caller.example/hook"}
    first = await service.caller.accepted(body)
    refused(await act(service.caller, first, "retry"), 409)
    await tell(simulator, f"jobs/{first}/finish", status="FAILED", wait=True)

    answer = await act(operator, first, "retry", Idempotency_Key="again")

    assert answer.status_code == 202
    second = answer.json()["jobId"]
    old, new = [await service.job(job_id) for job_id in (first, second)]
    for same in ("team_id", "key_id", "operation", "model", "input", "metadata", "priority", "callback"):
        assert getattr(new, same) == getattr(old, same), same
    assert (await service.caller.read(second))["retryOf"] == first
    theirs = {job["idempotency_key"]: job["body"] for job in (await books(simulator))["jobs"]}
    assert set(theirs) == {first, second}
    assert theirs[first].partition('"webhook')[0] == theirs[second].partition('"webhook')[0]
    assert "caller.example" not in theirs[second]
    assert (await act(operator, first, "retry", Idempotency_Key="again")).json()["jobId"] == second
    assert await actions_of(service, first) == ["retry"]


async def test_a_completed_job_is_not_tried_again(serve: Serve, simulate: Simulate) -> None:
    service, simulator = await holding(serve, simulate)
    job = await held_job(service, simulator)
    await tell(simulator, f"jobs/{job.upstream_id}/finish", wait=True)

    assert "COMPLETED" in refused(await act(service.caller, job.id, "retry"), 409)["error"]


async def test_a_refresh_tells_what_the_upstream_says_now(serve: Serve, simulate: Simulate) -> None:
    service, simulator = await holding(serve, simulate)
    job = await held_job(service, simulator)
    await tell(simulator, f"jobs/{job.upstream_id}/finish", announce=False)

    answer = await act(service.caller, job.id, "refresh")

    assert (answer.status_code, answer.json()["status"]) == (200, "COMPLETED")
    polls = (await books(simulator))["counters"]["polls"]
    assert (await act(service.caller, job.id, "refresh")).json()["status"] == "COMPLETED"
    assert (await books(simulator))["counters"]["polls"] == polls, "a job that is over needs no question"


async def test_a_refresh_says_so_where_the_upstream_does_not_answer(serve: Serve, simulate: Simulate) -> None:
    service, simulator = await holding(serve, simulate)
    job = await held_job(service, simulator)
    await tell(simulator, "faults", down=1)

    answer = await act(service.caller, job.id, "refresh")

    refused(answer, 503)
    assert int(answer.headers["Retry-After"]) >= 1
    await tell(simulator, "faults", down=0)
    await tell(simulator, f"jobs/{job.upstream_id}/finish", announce=False)
    answer = await eventually(
        lambda: act(service.caller, job.id, "refresh"), lambda answer: answer.json().get("status") == "COMPLETED"
    )
