"""A submission whose answer was lost: the upstream may hold it, so it is repeated byte for byte, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from app.apiframe.errors import Refusal, Unclear
from app.clock import SettableClock
from app.jobs import dispatch, expire, reconcile
from app.jobs.attempts import Sent
from app.jobs.claim import claim_jobs
from app.simulator.server import RunningSimulator
from tests.harness import FLUX, SIMULATOR_KEY, Service, books, eventually, tell
from tests.stories.deadlines import ended_when_it_hangs

ONE_KEY = {"Idempotency_Key": "poster-1"}


async def settable(service: Service) -> SettableClock:
    service.ctx.clock = clock = SettableClock()
    return clock


@pytest.mark.parametrize("fault", ["accept_then_cut", "accept_then_hang", "accept_then_error"])
async def test_a_lost_answer_is_resolved_by_repeating_the_same_bytes_under_the_same_key(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator], fault: str
) -> None:
    simulator = simulate(hold=True, webhook_field="both")
    service = await serve(simulator, loops=False, upstream_timeout_seconds=60)
    clock = await settable(service)
    await tell(simulator, "faults", next=[fault])

    with ended_when_it_hangs(simulator):
        job_id = await service.caller.accepted(FLUX, **ONE_KEY)
    assert (await service.job(job_id)).upstream_id is None
    clock.advance(60)
    assert await dispatch.run_once(service.ctx) == 1

    seen = await books(simulator)
    (job,) = seen["jobs"]
    assert (await service.job(job_id)).upstream_id == job["job_id"]
    assert seen["counters"]["replays"] == 1
    first, second = seen["submissions"]
    assert first["body"] == second["body"]
    assert first["idempotency_key"] == second["idempotency_key"] == job_id


async def test_a_webhook_that_arrives_meanwhile_settles_it_and_nothing_is_sent_again(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(webhook_field="both")
    service = await serve(simulator, loops=False)
    clock = await settable(service)
    await tell(simulator, "faults", next=["accept_then_cut"])

    job_id = await service.caller.accepted()
    await eventually(lambda: service.job(job_id), lambda job: job.status == "COMPLETED")
    clock.advance(3600)

    assert await dispatch.run_once(service.ctx) == 0
    assert (await books(simulator))["counters"]["submissions"] == 1


async def test_the_wire_is_frozen_whatever_is_configured_or_learned_since(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(hold=True, document="absent", webhook_field="both")
    before = await serve(simulator, loops=False, secret_key="first-secret")
    await tell(simulator, "faults", next=["accept_then_cut"])
    job_id = await before.caller.accepted()

    after = await serve(
        simulator,
        loops=False,
        secret_key="second-secret",
        previous_secret_key="first-secret",
        public_base_url="http://127.0.0.1:9",
        webhook_field="webhookUrl",
        apiframe_api_key="afk_another_key_for_tests",
        apiframe_previous_api_keys=(SIMULATOR_KEY,),
    )
    (await settable(after)).advance(60)
    assert await dispatch.run_once(after.ctx) == 1

    seen = await books(simulator)
    assert len(seen["jobs"]) == 1
    first, second = seen["submissions"]
    assert (first["body"], first["idempotency_key"], first["api_key"]) == (
        second["body"],
        second["idempotency_key"],
        second["api_key"],
    )
    assert (await after.job(job_id)).upstream_id == seen["jobs"][0]["job_id"]


async def test_everything_is_changed_in_mid_flight_and_nothing_is_lost_or_paid_twice(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    """The upstream key, the address and the secret change while jobs run, wait, and are of unknown fate."""
    keys = ("afk_old_key_for_tests", "afk_new_key_for_tests")
    simulator = simulate(api_keys=keys, max_concurrent_jobs=100, generate_seconds=0.3)
    faults = ["accept_then_cut", "accept_then_error", "none", "server_error", "accept_then_cut+no_webhooks"]
    await tell(simulator, "faults", next=faults * 4)
    old = {"apiframe_api_key": keys[0], "secret_key": "first-secret"}
    before = await serve(simulator, loops=False, max_in_flight=100, reconcile_after_seconds=0.5, **old)
    jobs = [await before.caller.accepted() for _ in range(20)]
    jobs += [await before.caller.accepted(Prefer="respond-async") for _ in range(5)]
    before.server.should_exit = True

    after = await serve(
        simulator,
        max_in_flight=100,
        apiframe_api_key=keys[1],
        apiframe_previous_api_keys=(keys[0],),
        secret_key="second-secret",
        previous_secret_key="first-secret",
        reconcile_after_seconds=0.5,
        sweep_seconds=0.2,
    )

    await eventually(
        lambda: after.rows("SELECT status FROM jobs"),
        lambda rows: len(rows) == 25 and {row.status for row in rows} == {"COMPLETED"},
        seconds=240,
    )
    theirs = (await books(simulator))["jobs"]
    assert sorted(job["idempotency_key"] for job in theirs) == sorted(jobs), "each was paid once"
    assert {row.upstream_id for row in await after.rows("SELECT upstream_id FROM jobs")} == {
        job["job_id"] for job in theirs
    }


async def test_a_job_of_unknown_fate_is_never_sent_under_another_key(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(webhook_field="both")
    before = await serve(simulator, loops=False)
    await tell(simulator, "faults", next=["accept_then_cut+no_webhooks"])
    job_id = await before.caller.accepted()

    after = await serve(simulator, loops=False, apiframe_api_key="afk_another_key_for_tests")
    clock = await settable(after)
    clock.advance(3600)
    assert await dispatch.run_once(after.ctx) == 0
    clock.advance(24 * 3600)
    await expire.run_once(after.ctx)

    job = await after.job(job_id)
    assert (job.status, job.error_code) == ("FAILED", "submission_unknown")
    assert (await books(simulator))["counters"]["submissions"] == 1


async def test_a_400_to_a_repeated_submission_derives_no_other_key(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(hold=True, document="absent", webhook_field="webhook_url", idempotency_ttl_seconds=1)
    service = await serve(simulator, loops=False)
    clock = await settable(service)
    await tell(simulator, "faults", next=["accept_then_cut"])
    job_id = await service.caller.accepted()

    # The upstream forgets the key and changes its mind about the spelling: the answer is now a 400.
    await tell(simulator, "advance", seconds=10)
    await tell(simulator, "config", webhook_field="webhookUrl")
    clock.advance(60)
    await dispatch.run_once(service.ctx)

    job = await service.job(job_id)
    assert (job.status, job.wire_key) == ("QUEUED", job_id)
    assert job.ambiguous_since is not None
    seen = await books(simulator)
    assert len(seen["jobs"]) == 1
    assert {one["idempotency_key"] for one in seen["submissions"]} == {job_id}


async def test_our_own_conclusion_yields_once_to_the_upstreams_late_word(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(hold=True, webhook_field="both")
    service = await serve(simulator, loops=False)
    clock = await settable(service)
    await tell(simulator, "faults", next=["accept_then_cut"])
    job_id = await service.caller.accepted()
    clock.advance(24 * 3600)
    await expire.run_once(service.ctx)
    assert (await service.job(job_id)).concluded_by == "framehook"

    (job,) = (await books(simulator))["jobs"]
    await tell(simulator, f"jobs/{job['job_id']}/finish", status="COMPLETED")

    ended = await eventually(lambda: service.job(job_id), lambda job: job.status == "COMPLETED")
    assert (ended.concluded_by, ended.error, ended.error_code) == ("upstream", None, None)


async def test_only_the_attempt_that_made_a_job_ambiguous_takes_it_back_and_only_on_a_definite_refusal(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(webhook_field="both")
    service = await serve(simulator, loops=False)
    ctx, clock = service.ctx, await settable(service)
    job_id = await service.caller.accepted(FLUX, Prefer="respond-async")
    busy = Refusal(429, {"error": "Too many requests"}, retry_after_seconds=None, request_id=None)

    async def claim() -> Any:
        async with ctx.db.transaction() as tx:
            (claimed,) = await claim_jobs(ctx, tx)
        return claimed

    refused = await claim()
    await ctx.batched(dispatch.record, Sent(refused, busy, ctx.now(), ctx.now()))
    assert (await service.job(job_id)).ambiguous_since is None

    clock.advance(60)
    unclear = await claim()
    await ctx.batched(dispatch.record, Sent(unclear, Unclear("timeout"), ctx.now(), ctx.now()))
    since = (await service.job(job_id)).ambiguous_since
    assert since is not None

    clock.advance(60)
    again = await claim()
    await ctx.batched(dispatch.record, Sent(again, busy, ctx.now(), ctx.now()))
    assert (await service.job(job_id)).ambiguous_since == since


async def test_an_outcome_is_not_recorded_under_a_lease_that_is_no_longer_the_jobs(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(webhook_field="both")
    service = await serve(simulator, loops=False)
    ctx, clock = service.ctx, await settable(service)
    job_id = await service.caller.accepted(FLUX, Prefer="respond-async")
    claims = []
    for _ in range(2):
        async with ctx.db.transaction() as tx:
            claims += await claim_jobs(ctx, tx)
        clock.advance(ctx.settings.lease_seconds + 1)
    late, current = claims
    rejected = Refusal(400, {"error": "Validation failed"}, retry_after_seconds=None, request_id=None)

    settlement = await ctx.batched(dispatch.record, Sent(late, rejected, ctx.now(), ctx.now()))

    job = await service.job(job_id)
    assert settlement.decision.verdict == "not ours"
    assert (job.status, job.lease_token) == ("QUEUED", current.lease)


async def test_a_submission_that_was_accepted_and_finished_meanwhile_is_asked_after_at_once(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(webhook_field="both")
    service = await serve(simulator, loops=False)
    clock = await settable(service)
    await tell(simulator, "faults", next=["accept_then_cut+no_webhooks"], drop=1)
    job_id = await service.caller.accepted()
    await eventually(lambda: books(simulator), lambda seen: seen["jobs"][0]["status"] == "COMPLETED")

    clock.advance(30)
    await dispatch.run_once(service.ctx)
    assert await reconcile.run_once(service.ctx) == 1

    assert (await service.caller.read(job_id))["status"] == "COMPLETED"
    assert (await books(simulator))["counters"]["accepted"] == 1


async def test_a_submission_of_unknown_fate_is_not_repeated_once_the_upstream_may_have_forgotten_it(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(webhook_field="both")
    service = await serve(simulator, loops=False)
    clock = await settable(service)
    await tell(simulator, "faults", next=["accept_then_cut+no_webhooks"])
    await service.caller.accepted()

    clock.advance(23 * 3600 + 1)

    assert await dispatch.run_once(service.ctx) == 0
    assert (await books(simulator))["counters"]["submissions"] == 1
