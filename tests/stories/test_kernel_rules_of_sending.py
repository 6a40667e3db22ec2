"""The kernel's rules about what may have been received: 1 (unsent means never) and 2 (the wire is frozen), as walks.

Translated parents belong to these rules and are not built yet.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from app.clock import SettableClock
from app.jobs import dispatch, expire
from app.jobs.claim import claim_jobs
from app.simulator.server import RunningSimulator
from tests.harness import FLUX, SIMULATOR_KEY, Service, books, eventually, settled, tell
from tests.locks import CLAIMS, blocked, stopped_at
from tests.stories.deadlines import ended_when_it_hangs

Serve = Callable[..., Any]
Simulate = Callable[..., RunningSimulator]

LATER = {"Prefer": "respond-async"}
HOUR = 3600.0
OTHER_KEY = "afk_of_another_account"


def settable(service: Service) -> SettableClock:
    service.ctx.clock = clock = SettableClock()
    return clock


async def send_again(service: Service) -> None:
    """Have the one job that waits sent, as soon as what the last attempt taught lets it, and that one's lesson learned."""
    assert await eventually(lambda: dispatch.run_once(service.ctx)) == 1
    await settled(service)


async def submissions(simulator: RunningSimulator) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = (await books(simulator))["submissions"]
    return seen


async def accepted_count(simulator: RunningSimulator) -> int:
    return int((await books(simulator))["counters"]["accepted"])


# 1. Unsent means never possibly received.


async def test_kernel_rule_1_a_job_counts_as_sent_by_a_commit_before_its_first_byte_leaves(
    serve: Serve, simulate: Simulate
) -> None:
    simulator = simulate(hold=True)
    service = await serve(simulator, loops=False, upstream_timeout_seconds=60)
    await tell(simulator, "faults", next=["accept_then_hang"])
    job_id = await service.caller.accepted(FLUX, **LATER)
    assert (await service.job(job_id)).ambiguous_since is None

    async with stopped_at(service, CLAIMS):
        running = asyncio.create_task(dispatch.run_once(service.ctx))
        await blocked(service, 1)
        assert await submissions(simulator) == []

    await eventually(lambda: submissions(simulator))
    job = await service.job(job_id)
    assert (job.ambiguous_since is not None, job.ambiguous_by) == (True, job.lease_token)
    await eventually(lambda: books(simulator), lambda seen: seen["counters"]["hanging_now"])
    await tell(simulator, "release")
    await running


@pytest.mark.parametrize("fate", ["accept_then_hang", "accept_then_cut", "accept_then_error", "crash"])
async def test_kernel_rule_1_a_refusal_to_a_later_attempt_does_not_make_a_job_unsent(
    serve: Serve, simulate: Simulate, fate: str
) -> None:
    simulator = simulate(hold=True)
    service = await serve(simulator, loops=False, upstream_timeout_seconds=60)
    clock = settable(service)
    job_id = await service.caller.accepted(FLUX, **LATER)
    if fate == "crash":
        async with service.ctx.db.transaction() as tx:
            assert len(await claim_jobs(service.ctx, tx)) == 1
    else:
        await tell(simulator, "faults", next=[fate])
        with ended_when_it_hangs(simulator):
            assert await dispatch.run_once(service.ctx) == 1
    since = (await service.job(job_id)).ambiguous_since
    assert since is not None

    await tell(simulator, "faults", next=["rate_limited", "forbidden", "none"])
    for _ in range(2):
        clock.advance(HOUR)
        await send_again(service)
        job = await service.job(job_id)
        assert (job.status, job.ambiguous_since) == ("QUEUED", since)
    clock.advance(HOUR)
    await send_again(service)

    assert (await service.job(job_id)).upstream_id is not None
    assert await accepted_count(simulator) == 1


async def test_kernel_rule_1_a_definite_refusal_to_the_attempt_that_set_it_makes_a_job_unsent(
    serve: Serve, simulate: Simulate
) -> None:
    simulator = simulate(hold=True)
    service = await serve(simulator, loops=False)
    clock = settable(service)
    job_id = await service.caller.accepted(FLUX, **LATER)

    await tell(simulator, "faults", next=["rate_limited"])
    assert await dispatch.run_once(service.ctx) == 1
    assert (await service.job(job_id)).ambiguous_since is None
    clock.advance(13 * HOUR)
    assert await expire.run_once(service.ctx) == 1

    assert (await service.job(job_id)).error_code == "dispatch_window_passed"


async def test_kernel_rule_1_the_time_to_repeat_a_submission_counts_from_its_first_attempt(
    serve: Serve, simulate: Simulate
) -> None:
    simulator = simulate(hold=True)
    service = await serve(simulator, loops=False)
    clock = settable(service)
    await tell(simulator, "faults", accept_then_cut=1)
    job_id = await service.caller.accepted(FLUX, **LATER)

    clock.advance(3 * HOUR)
    assert await dispatch.run_once(service.ctx) == 1
    clock.advance(22 * HOUR)
    await send_again(service)
    clock.advance(2 * HOUR)

    assert await dispatch.run_once(service.ctx) == 0
    assert await expire.run_once(service.ctx) == 1
    assert (await service.job(job_id)).error_code == "submission_unknown"
    assert len(await submissions(simulator)) == 2


async def test_kernel_rule_1_only_a_job_that_was_never_sent_can_be_cancelled(serve: Serve, simulate: Simulate) -> None:
    simulator = simulate(hold=True)
    service = await serve(simulator, loops=False)
    await tell(simulator, "faults", next=["accept_then_cut"])
    sent = await service.caller.accepted(FLUX, **LATER)
    await send_again(service)
    unsent = await service.caller.accepted(FLUX, **LATER)

    answers = [await service.caller.http.post(f"/v1/jobs/{job_id}/cancel") for job_id in (sent, unsent)]

    assert [answer.status_code for answer in answers] == [409, 200]
    assert [(await service.job(job_id)).status for job_id in (sent, unsent)] == ["QUEUED", "CANCELLED"]
    settable(service).advance(HOUR)
    await send_again(service)
    assert {one["idempotency_key"] for one in await submissions(simulator)} == {sent}


# 2. The wire is frozen.

WRITTEN_ODDLY = (
    b'{"prompt":"caf\\u00e9 \\/ bar", "midjourneyParams":{ "z":1.50,"a":[1E2,-0.0],\t"big":12345678901234567890123},'
    b'"model":"midjourn\\u0065y"}'
)


async def test_kernel_rule_2_what_may_have_been_received_is_sent_again_to_the_byte_whatever_is_configured_since(
    serve: Serve, simulate: Simulate
) -> None:
    simulator = simulate(
        hold=True, api_keys=(SIMULATOR_KEY, OTHER_KEY), accounts={SIMULATOR_KEY: "main", OTHER_KEY: "other"}
    )
    before = await serve(simulator, loops=False, webhook_field="webhook_url")
    await tell(simulator, "faults", next=["accept_then_cut"])
    await before.caller.accepted(WRITTEN_ODDLY, **LATER)
    assert await dispatch.run_once(before.ctx) == 1
    after = await serve(
        simulator,
        loops=False,
        secret_key="another secret than before",
        public_base_url="http://127.0.0.1:9",
        webhook_field="webhookUrl",
        apiframe_api_key=OTHER_KEY,
        apiframe_previous_api_keys=(SIMULATOR_KEY,),
    )
    settable(after).advance(HOUR)

    assert await dispatch.run_once(after.ctx) == 1

    first, second = await submissions(simulator)
    assert second == first
    for value in (b'"caf\\u00e9 \\/ bar"', b'{ "z":1.50,"a":[1E2,-0.0],\t"big":12345678901234567890123}'):
        assert value in first["body"].encode()
    assert await accepted_count(simulator) == 1


async def test_kernel_rule_2_another_spelling_goes_under_a_derived_key_after_a_definite_400(
    serve: Serve, simulate: Simulate
) -> None:
    simulator = simulate(hold=True, webhook_field="webhookUrl", document="absent")
    service = await serve(simulator, loops=False)
    job_id = await service.caller.accepted(FLUX, **LATER)

    assert await dispatch.run_once(service.ctx) == 1

    sent = await submissions(simulator)
    assert [one["idempotency_key"] for one in sent] == [job_id, f"{job_id}:2"]
    assert ["webhookUrl" in json.loads(one["body"]) for one in sent] == [False, True]


@pytest.mark.parametrize("refusal", ["400 of the webhook field", "409 of the key"])
async def test_kernel_rule_2_a_refusal_while_the_fate_is_unknown_neither_fails_nor_derives(
    serve: Serve, simulate: Simulate, refusal: str
) -> None:
    simulator = simulate(hold=True, webhook_field="webhookUrl", document="absent")
    service = await serve(simulator, loops=False)
    clock = settable(service)
    await tell(simulator, "faults", next=["server_error"])
    job_id = await service.caller.accepted(FLUX, **LATER)
    assert await dispatch.run_once(service.ctx) == 1
    since = (await service.job(job_id)).ambiguous_since
    if refusal == "409 of the key":
        # As if the upstream had kept the first attempt otherwise than we sent it.
        await _submit_elsewhere(simulator, job_id)

    clock.advance(HOUR)
    await send_again(service)

    job = await service.job(job_id)
    assert (job.status, job.ambiguous_since, job.wire_key) == ("QUEUED", since, job_id)
    assert (await books(simulator))["counters"]["refused"][refusal[:3]] == 1
    assert {one["idempotency_key"] for one in await submissions(simulator)} == {job_id}
    clock.advance(23 * HOUR)
    assert await expire.run_once(service.ctx) == 1
    assert (await service.job(job_id)).error_code == "submission_unknown"


async def _submit_elsewhere(simulator: RunningSimulator, key: str) -> None:
    headers = {"X-API-Key": SIMULATOR_KEY, "Idempotency-Key": key}
    async with httpx.AsyncClient(base_url=simulator.url, headers=headers, trust_env=False, timeout=60) as direct:
        assert (await direct.post("/v2/images/generate", json=FLUX)).status_code == 202
