"""One Idempotency-Key stands for one job, whoever asks, however often and wherever, until the job is refused."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import httpx
import pytest

from app.clock import SettableClock
from app.jobs import dispatch
from app.simulator.server import RunningSimulator
from tests.harness import FLUX, SIMULATOR_KEY, Service, books, eventually, refused, tell

ONE: Final = {"Idempotency_Key": "poster-1"}
BODY: Final = FLUX | {"fluxParams": {"seed": 1, "raw": True}, "metadata": {"campaign": "autumn", "page": 1}}


async def counters(simulator: RunningSimulator) -> Any:
    return (await books(simulator))["counters"]


async def test_the_same_key_with_the_same_body_answers_with_the_same_job(
    service: Service, simulator: RunningSimulator
) -> None:
    first = await service.caller.submit(BODY, **ONE)
    again = await service.caller.submit(BODY, **ONE)

    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["jobId"] == again.json()["jobId"]
    assert (await counters(simulator))["submissions"] == 1
    assert len(await service.rows("SELECT id FROM jobs")) == 1


async def test_a_body_written_in_another_way_is_the_same_body(service: Service, simulator: RunningSimulator) -> None:
    job_id = await service.caller.accepted(BODY, **ONE)
    ways = [
        json.dumps(BODY, indent=4).encode(),
        json.dumps(BODY, sort_keys=True, separators=(",", ":")).encode(),
        json.dumps(dict(reversed(BODY.items()))).encode(),
        json.dumps(BODY | {"fluxParams": {"raw": True, "seed": 1}}).encode(),
        json.dumps(BODY).replace("lighthouse", r"l\u0069ghthouse").encode(),
    ]

    assert {await service.caller.accepted(way, **ONE) for way in ways} == {job_id}
    assert (await counters(simulator))["submissions"] == 1


async def test_the_same_key_with_another_body_is_a_conflict(
    serve: Callable[..., Any], simulator: RunningSimulator
) -> None:
    service = await serve(simulator, loops=False)
    job_id = await service.caller.accepted(BODY, **ONE)
    changes: list[dict[str, Any]] = [
        {"prompt": "another lighthouse"},
        {"fluxParams": {"seed": 2, "raw": True}},
        {"fluxParams": {"seed": 1}},
        {"metadata": {"campaign": "winter", "page": 1}},
        {"priority": 1},
        {"webhook_url": "https://caller.example/hook"},
    ]

    for change in changes:
        refused(await service.caller.submit(BODY | change, **ONE), 409)

    assert await service.caller.accepted(BODY, **ONE) == job_id
    assert (await counters(simulator))["submissions"] == 1
    assert len(await service.rows("SELECT id FROM jobs")) == 1


@pytest.mark.parametrize("services", [1, 2])
async def test_fifty_at_once_under_one_key_make_one_job(
    serve: Callable[..., Any], simulator: RunningSimulator, services: int
) -> None:
    """Also through two processes that share nothing but the database."""
    first, *others = [await serve(simulator) for _ in range(services)]
    key = {"X-API-Key": first.caller.key, "Idempotency-Key": "poster-1"}

    answers = await asyncio.gather(
        *(
            each.caller.http.post("/v2/images/generate", json=BODY, headers=key)
            for each in [first, *others] * (50 // services)
        )
    )

    assert Counter(answer.status_code for answer in answers) == {202: 50}
    (job_id,) = {answer.json()["jobId"] for answer in answers}
    assert (await first.caller.read(job_id, wait=60))["status"] == "COMPLETED"
    assert [str(row.id) for row in await first.rows("SELECT id FROM jobs")] == [job_id]
    seen = await counters(simulator)
    assert (seen["submissions"], seen["accepted"]) == (1, 1)


async def test_fifty_at_once_under_one_key_and_two_bodies_have_one_winner(service: Service) -> None:
    bodies = [BODY, BODY | {"prompt": "another lighthouse"}]

    answers = await asyncio.gather(*(service.caller.submit(body, **ONE) for body in bodies * 25))

    assert Counter(answer.status_code for answer in answers) == {202: 25, 409: 25}
    assert {answer.status_code for answer in answers[::2]} != {answer.status_code for answer in answers[1::2]}
    assert len({answer.json()["jobId"] for answer in answers if answer.status_code == 202}) == 1
    assert len(await service.rows("SELECT id FROM jobs")) == 1


async def test_keys_are_a_teams_own_and_shared_within_it(service: Service, simulator: RunningSimulator) -> None:
    colleague = await service.new_caller("tests")
    stranger = await service.new_caller("strangers")

    mine, ours, theirs = [await caller.accepted(BODY, **ONE) for caller in (service.caller, colleague, stranger)]

    assert mine == ours
    assert mine != theirs
    assert (await counters(simulator))["accepted"] == 2


async def test_without_a_key_every_submission_is_a_job_of_its_own(
    service: Service, simulator: RunningSimulator
) -> None:
    jobs = {await service.caller.accepted(BODY) for _ in range(3)}

    assert len(jobs) == 3
    assert (await counters(simulator))["accepted"] == 3


async def test_a_key_has_1_to_255_characters(serve: Callable[..., Any], simulator: RunningSimulator) -> None:
    service = await serve(simulator, loops=False)

    for key in ("", "x" * 256, "x" * 10_000):
        told = refused(await service.caller.submit(BODY, Idempotency_Key=key), 400)
        assert list(told["details"]) == ["Idempotency-Key"]
    assert await service.rows("SELECT id FROM jobs") == []
    for key in ("x", "x" * 255, "with spaces; and = signs"):
        job_id = await service.caller.accepted(BODY, Idempotency_Key=key)
        assert (await service.job(job_id)).idempotency_key == key


async def test_a_replay_tells_how_far_the_job_is_by_now(service: Service, simulator: RunningSimulator) -> None:
    job_id = await service.caller.accepted(BODY, **ONE)
    await service.caller.read(job_id, wait=60)

    again = await service.caller.submit(BODY, **ONE)

    assert again.status_code == 202
    assert again.json() == {"jobId": job_id, "status": "COMPLETED"}
    assert (await counters(simulator))["submissions"] == 1


async def said_by(simulator: RunningSimulator, body: Any) -> httpx.Response:
    """What the upstream answers to this body when it is asked without us."""
    async with httpx.AsyncClient(
        base_url=simulator.url, headers={"X-API-Key": SIMULATOR_KEY}, trust_env=False, timeout=60
    ) as direct:
        return await direct.post("/v2/images/generate", json=body)


TOLD: Final[dict[str, tuple[dict[str, Any], dict[str, Any], int, str]]] = {
    # What makes the upstream refuse: its config, its faults; then the status, and our code for the job.
    "no credits": ({"credits": 3, "cost": 7}, {}, 402, "insufficient_credits"),
    "no credits, for now": ({}, {"next": ["no_credits"]}, 402, "insufficient_credits"),
    "not allowed": ({}, {"next": ["forbidden"]}, 403, "forbidden"),
}


@pytest.mark.parametrize("name", TOLD)
async def test_a_refusal_is_told_verbatim_and_frees_the_key(
    serve: Callable[..., Any], simulator: RunningSimulator, name: str
) -> None:
    service = await serve(simulator, loops=False)
    config, faults, status, code = TOLD[name]
    await tell(simulator, "config", **config)
    await tell(simulator, "faults", **faults)
    verbatim = await said_by(simulator, FLUX)
    assert verbatim.status_code == status
    await tell(simulator, "faults", **faults)

    answer = await service.caller.submit(BODY, **ONE)

    assert refused(answer, status) == verbatim.json()
    (job,) = await service.rows("SELECT id, status, error, error_code FROM jobs")
    assert (job.status, job.error, job.error_code) == ("FAILED", verbatim.json()["error"], code)
    assert await service.rows("SELECT job_id FROM idempotency_keys") == []

    await tell(simulator, "config", credits=1000)
    second = await service.caller.accepted(BODY, **ONE)
    assert second != str(job.id)
    assert (await service.caller.read(second, wait=60))["status"] == "COMPLETED"
    assert (await service.job(job.id)).status == "FAILED"
    assert (await counters(simulator))["accepted"] == 1


@pytest.mark.parametrize("headers", [ONE, {}], ids=["with a key", "without a key"])
async def test_a_job_that_was_refused_is_never_sent_again(
    serve: Callable[..., Any], simulator: RunningSimulator, headers: dict[str, str]
) -> None:
    """Its caller was told that nothing was made: making it after all would be paid for by nobody's wish."""
    service = await serve(simulator, loops=False)
    service.ctx.clock = clock = SettableClock()
    await tell(simulator, "faults", next=["no_credits"])
    refused(await service.caller.submit(BODY, **headers), 402)

    for _ in range(3):
        assert await dispatch.run_once(service.ctx) == 0
        clock.advance(3600)

    (job,) = await service.rows("SELECT status, dispatch_at FROM jobs")
    assert (job.status, job.dispatch_at) == ("FAILED", None)
    assert (await counters(simulator))["submissions"] == 1


async def test_out_of_credits_is_told_with_its_numbers(service: Service, simulator: RunningSimulator) -> None:
    await tell(simulator, "config", credits=3, cost=7)

    answer = await service.caller.submit(BODY, **ONE)

    assert refused(answer, 402) == {"error": "Insufficient credits", "creditsRequired": 7, "creditsAvailable": 3}


async def test_what_the_upstream_finds_wrong_is_told_in_its_words(
    serve: Callable[..., Any], simulator: RunningSimulator
) -> None:
    service = await serve(simulator, validation="off")
    body = {"model": "midjourney", "prompt": "x" * 2001, "midjourneyParams": [], "size": "big"}
    verbatim = await said_by(simulator, body)
    assert len(verbatim.json()["details"]) == 3

    answer = await service.caller.submit(body | {"metadata": {"ours": 1}}, **ONE)

    assert refused(answer, 400) == verbatim.json()
    (job,) = await service.rows("SELECT id, status, error_code FROM jobs")
    assert (job.status, job.error_code) == ("FAILED", "upstream_rejected")
    # The key is free for a request that is right this time.
    right = await service.caller.accepted({"model": "midjourney", "prompt": "x"}, **ONE)
    assert right != str(job.id)


async def test_a_refused_job_is_shown_with_why_it_failed(service: Service, simulator: RunningSimulator) -> None:
    await tell(simulator, "config", credits=0)
    await service.caller.submit(BODY, **ONE)

    (job,) = (await service.caller.http.get("/v2/jobs")).json()["jobs"]

    assert (job["status"], job["error"], job["errorCode"]) == ("FAILED", "Insufficient credits", "insufficient_credits")
    assert job["completedAt"] is not None


@pytest.mark.parametrize("services", [1, 2])
async def test_of_many_at_once_nobody_is_promised_a_job_that_was_refused(
    serve: Callable[..., Any], simulator: RunningSimulator, services: int
) -> None:
    """Whoever is told 202 while others race into a 402 was told the truth: that job waits for credits."""
    first, *others = [await serve(simulator, loops=False) for _ in range(services)]
    await tell(simulator, "config", credits=0)

    for turn in range(6):
        key = {"X-API-Key": first.caller.key, "Idempotency-Key": f"poster-{turn}"}
        answers = await asyncio.gather(
            *(each.caller.http.post("/v2/images/generate", json=BODY, headers=key) for each in [first, *others] * 4)
        )
        assert {answer.status_code for answer in answers} <= {202, 402}
        promised = {answer.json()["jobId"] for answer in answers if answer.status_code == 202}
        assert len(promised) <= 1
        for job_id in promised:
            job = await first.job(job_id)
            assert (job.status, job.refusal) == ("QUEUED", None)
            assert job.idempotency_key == f"poster-{turn}"
        held = await first.rows("SELECT job_id FROM idempotency_keys WHERE key = :key", key=f"poster-{turn}")
        assert {str(row.job_id) for row in held} == promised
    rows = await first.rows("SELECT status, refusal IS NULL AS kept FROM jobs")
    assert {(row.status, row.kept) for row in rows} <= {("QUEUED", True), ("FAILED", False)}


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param({"down": 1}, id="down, by an answer"),
        pytest.param({"down": 1, "down_by": "cut"}, id="down, by a cut connection"),
        pytest.param({"rate_limited": 1}, id="busy"),
        pytest.param({"server_error": 1}, id="broken"),
    ],
)
async def test_a_job_that_was_promised_is_not_refused_later(
    serve: Callable[..., Any], simulator: RunningSimulator, trouble: dict[str, Any]
) -> None:
    service = await serve(simulator, loops=False)
    service.ctx.clock = clock = SettableClock()
    await tell(simulator, "faults", **trouble)

    first = await service.caller.submit(BODY, **ONE)
    replay = await service.caller.submit(BODY, **ONE)
    assert (first.status_code, replay.status_code) == (202, 202)
    assert replay.json() == first.json() == {"jobId": replay.json()["jobId"], "status": "QUEUED"}
    job_id = replay.json()["jobId"]

    await tell(simulator, "faults", replace=True)
    await tell(simulator, "config", credits=0)
    for _ in range(3):
        clock.advance(3600)
        assert await dispatch.run_once(service.ctx) == 1
        assert (await service.job(job_id)).status == "QUEUED"
        assert await service.caller.accepted(BODY, **ONE) == job_id
    assert (await counters(simulator))["refused"]["402"] == 3

    await tell(simulator, "config", credits=1000)
    clock.advance(3600)
    assert await dispatch.run_once(service.ctx) == 1
    assert (await service.caller.read(job_id, wait=60))["status"] == "COMPLETED"
    assert (await counters(simulator))["accepted"] == 1


async def test_a_job_that_is_answered_later_is_promised_at_once(
    serve: Callable[..., Any], simulator: RunningSimulator
) -> None:
    """With `Prefer: respond-async` the 202 comes first, so that a 402 after it is waited out."""
    service = await serve(simulator, loops=False)
    await tell(simulator, "config", credits=0)

    job_id = await service.caller.accepted(BODY, Prefer="respond-async", **ONE)
    assert await dispatch.run_once(service.ctx) == 1

    assert (await service.job(job_id)).status == "QUEUED"
    assert await service.caller.accepted(BODY, **ONE) == job_id


async def test_our_refused_key_is_not_the_callers_fault(service: Service, simulator: RunningSimulator) -> None:
    """A 401, or a 403 that `GET /v2/me` repeats, is about our key: the job waits, and readiness says why."""
    for fault in ("unauthorized", "forbidden"):
        await tell(simulator, "faults", replace=True, **{fault: 1})
        answer = await service.caller.submit(BODY)
        assert answer.status_code == 202, answer.text
        assert answer.json()["status"] == "QUEUED"

    ready = await eventually(
        lambda: service.caller.http.get("/readyz"), lambda answer: "dispatch is paused" in answer.text
    )
    assert ready.status_code == 200
    assert ready.json()["status"] == "degraded"
