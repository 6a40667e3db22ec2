"""The kernel's rules of what is kept: 3 (one final), 5 (lock order), 8 (an unknown COMMIT), 9 (dedupe), each as a walk."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from itertools import permutations
from typing import Any, Literal
from uuid import UUID

import asyncpg
import httpx
import pytest

from app.apiframe.operations import IMAGES_GENERATE
from app.auth import find_caller, key_hash
from app.clock import SettableClock
from app.jobs import dispatch, expire, reconcile, upstream
from app.jobs.bodies import read_body
from app.jobs.submit import accept, make_job
from app.simulator.server import RunningSimulator
from app.webhooks.receive import apply, read_webhook
from tests.harness import (
    FLUX,
    HeldJob,
    Service,
    books,
    eventually,
    held_job,
    post_webhook,
    running_service,
    settings_for,
    settled,
    tell,
)
from tests.locks import ACCEPTANCES, blocked, holding, order_by_place, put_last, stopped_at, struck_once
from tests.simulator.walks import sign
from tests.wires import PostgresWire, UpstreamWire

Serve = Callable[..., Any]
Simulate = Callable[..., RunningSimulator]

LATER = {"Prefer": "respond-async"}
OLD_KEY = "afk_the_key_before_this_one"


async def say(service: Service, job: HeldJob, **said: Any) -> None:
    """Post a signed webhook, which must be acknowledged."""
    body = job.says(**said)
    assert (await post_webhook(service, job.url, body, sign(body))).status_code == 200


async def counters(simulator: RunningSimulator) -> Any:
    return (await books(simulator))["counters"]


# 3. One final.


@pytest.mark.parametrize("statuses", list(permutations(("COMPLETED", "FAILED", "CANCELLED"), 2)))
async def test_kernel_rule_3_the_first_final_status_of_the_upstream_stays(
    serve: Serve, simulate: Simulate, statuses: tuple[str, str]
) -> None:
    simulator = simulate(hold=True)
    service = await serve(simulator, loops=False)
    job = await held_job(service, simulator)

    await say(service, job, event="completed", status=statuses[0])
    ended = await service.job(job.id)
    await say(service, job, event="completed", status=statuses[1])

    assert (ended.status, ended.concluded_by) == (statuses[0], "upstream")
    assert await service.job(job.id) == ended


@pytest.mark.parametrize("mouth", ["webhook", "poll"])
async def test_kernel_rule_3_our_own_conclusion_yields_once_to_a_later_final_of_the_upstream(
    serve: Serve, simulate: Simulate, mouth: str
) -> None:
    simulator = simulate(hold=True)
    service = await serve(simulator, loops=False)
    service.ctx.clock = clock = SettableClock()
    await tell(simulator, "faults", next=["accept_then_cut"])
    job = await held_job(service, simulator)
    clock.advance(24 * 3600)
    assert await expire.run_once(service.ctx) == 1
    assert (await service.job(job.id)).concluded_by == "framehook"

    await say(service, job, event="progress", progress=50)
    assert (await service.job(job.id)).status == "FAILED"
    if mouth == "webhook":
        await say(service, job, event="completed", creditCost=10)
    else:
        await tell(simulator, f"jobs/{job.upstream_id}/finish", announce=False)
        clock.advance(3600)
        assert await reconcile.run_once(service.ctx) == 1
    ended = await service.job(job.id)
    await say(service, job, event="failed", status="CANCELLED")

    assert (ended.status, ended.concluded_by, ended.credit_cost) == ("COMPLETED", "upstream", 10)
    assert (ended.error, ended.error_code) == (None, None)
    assert await service.job(job.id) == ended


# 5. Lock order.


async def test_kernel_rule_5_batches_of_the_same_jobs_in_opposite_order_lock_them_by_id(
    serve: Serve, simulate: Simulate, database_url: str
) -> None:
    await order_by_place(database_url)
    simulator = simulate(hold=True)
    one, other = [await serve(simulator, loops=False) for _ in range(2)]
    lower, higher = sorted([await held_job(one, simulator) for _ in range(2)], key=lambda job: job.id)
    await put_last(one, lower.id)

    async def finish(service: Service, *jobs: HeldJob) -> list[str]:
        bodies = [(UUID(job.id), job.says("completed")) for job in jobs]
        webhooks = [read_webhook(service.ctx, at, body, {"x-webhook-signature": sign(body)}) for at, body in bodies]
        received = await asyncio.gather(*(service.ctx.batched(apply, webhook) for webhook in webhooks))
        return [each.outcome for each in received]

    lock = "SELECT 1 FROM jobs WHERE id = $1 FOR UPDATE SKIP LOCKED"
    async with holding(one, lock, UUID(lower.id)) as holder:
        finishing = asyncio.gather(finish(one, higher, lower), finish(other, lower, higher))
        await blocked(one, 2)
        # Whoever waits for the lower job holds no higher one, so that nobody can come to wait for them in turn.
        assert len(await holder.fetch(lock, UUID(higher.id))) == 1

    first, second = await finishing
    assert sorted(first + second) == ["applied"] * 2 + ["repeated"] * 2


async def test_kernel_rule_5_batches_of_the_same_idempotency_keys_in_opposite_order_claim_them_by_key(
    serve: Serve, simulate: Simulate
) -> None:
    simulator = simulate(hold=True)
    one, other = [await serve(simulator, loops=False) for _ in range(2)]
    caller = await find_caller(one.ctx, key_hash(one.caller.key))
    assert caller is not None

    async def submit(service: Service, *keys: str) -> dict[str, UUID]:
        body = read_body(IMAGES_GENERATE, json.dumps(FLUX).encode(), service.ctx.targets)
        jobs = [await make_job(service.ctx, caller, body, key, refusable=False) for key in keys]
        accepted = await asyncio.gather(*(service.ctx.batched(accept, job) for job in jobs))
        return {key: each.job_id for key, each in zip(keys, accepted, strict=True)}

    claim = "INSERT INTO idempotency_keys VALUES ($1, $2, gen_random_uuid(), '', now()) ON CONFLICT DO NOTHING"
    async with holding(one, claim, caller.team_id, "earlier") as holder:
        submitting = asyncio.gather(submit(one, "later", "earlier"), submit(other, "earlier", "later"))
        await blocked(one, 2)
        await holder.execute("SET LOCAL lock_timeout = '50ms'")
        try:
            free = await holder.execute(claim, caller.team_id, "later")
        except asyncpg.LockNotAvailableError:
            free = "held by one that waits for the earlier key"
        assert free == "INSERT 0 1"

    first, second = await submitting
    assert first == second
    assert len(await one.rows("SELECT id FROM jobs")) == 2


async def test_kernel_rule_5_a_claim_locks_the_account_before_any_job(serve: Serve, simulate: Simulate) -> None:
    service = await serve(simulate(hold=True), loops=False)
    await upstream.refresh_once(service.ctx)
    await service.caller.accepted(FLUX, **LATER)

    async with holding(service, "SELECT 1 FROM upstream_accounts FOR UPDATE") as holder:
        claiming = asyncio.create_task(dispatch.run_once(service.ctx))
        await blocked(service, 1)
        assert len(await holder.fetch("SELECT 1 FROM jobs FOR UPDATE SKIP LOCKED")) == 1

    assert await claiming == 1


@pytest.mark.parametrize("conflict", ["40P01", "40001"], ids=["deadlock", "serialization"])
async def test_kernel_rule_5_a_batch_that_postgresql_gave_up_for_another_is_run_again(
    serve: Serve, simulate: Simulate, conflict: str
) -> None:
    simulator = simulate(hold=True)
    service = await serve(simulator, loops=False)
    job = await held_job(service, simulator)

    async with struck_once(service, "BEFORE INSERT OR UPDATE ON jobs FOR EACH ROW", conflict):
        await say(service, job, event="completed")
    async with struck_once(service, "BEFORE INSERT OR UPDATE ON jobs FOR EACH ROW", conflict):
        await service.caller.accepted(FLUX, **LATER)

    assert (await service.job(job.id)).status == "COMPLETED"
    assert len(await service.rows("SELECT id FROM jobs")) == 2


# 8. An unknown COMMIT.


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", ["acceptance", "claim", "record", "promise"])
async def test_kernel_rule_8_a_submission_whose_commit_was_lost_is_accepted_once_and_sent_once(
    database_url: str, simulate: Simulate, step: str, moment: Literal["before", "after"]
) -> None:
    simulator = simulate(hold=True, document="absent")  # keeping that would be a commit of its own
    wire = PostgresWire(database_url)
    async with wire.open() as url, running_service(settings_for(url, simulator, loops=False)) as service:
        service.ctx.clock = clock = SettableClock()
        if step == "promise":  # what an unclear answer leads to
            await tell(simulator, "faults", next=["server_error"])
        await settled(service)
        wire.cut_in_commit(moment=moment, number=["acceptance", "claim", "record", "promise"].index(step) + 1)

        job_id = await service.caller.accepted(FLUX)

        assert wire.cuts == 1
        clock.advance(3600)
        await dispatch.run_once(service.ctx)
        (row,) = await service.rows("SELECT id, upstream_id FROM jobs")
        assert (str(row.id), row.upstream_id is not None) == (job_id, True)
    assert (await counters(simulator))["accepted"] == 1


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_kernel_rule_8_a_webhook_whose_commit_was_lost_is_acknowledged_and_applied_once(
    database_url: str, simulate: Simulate, moment: Literal["before", "after"]
) -> None:
    simulator = simulate(hold=True)
    wire = PostgresWire(database_url)
    async with wire.open() as url, running_service(settings_for(url, simulator, loops=False)) as service:
        job = await held_job(service, simulator)
        await eventually(lambda: service.job(job.id), lambda row: row.upstream_id is not None)
        await settled(service)  # what was learned from the submission is a commit of its own
        wire.cut_in_commit(moment=moment)

        await say(service, job, event="completed", creditCost=10)

        assert wire.cuts == 1
        assert (await service.job(job.id)).status == "COMPLETED"
        assert await service.rows("SELECT applied FROM receipts") == [(True,)]


async def test_kernel_rule_8_a_client_that_leaves_does_not_cancel_the_commit_of_anybody(
    serve: Serve, simulate: Simulate
) -> None:
    service = await serve(simulate(hold=True), loops=False)

    async with in_process(service) as leaving, stopped_at(service, ACCEPTANCES):
        left = asyncio.create_task(leaving.post("/v2/images/generate", json=FLUX, headers=LATER))
        await blocked(service, 1)
        stays = asyncio.create_task(service.caller.submit(FLUX, **LATER))
        left.cancel()
        await asyncio.wait([left])
        assert left.cancelled()

    await eventually(lambda: service.rows("SELECT id FROM jobs"), lambda rows: len(rows) == 2)
    await asyncio.wait([stays], timeout=60)
    assert stays.done()
    assert stays.result().status_code == 202
    assert await dispatch.run_once(service.ctx) == 2


async def test_kernel_rule_8_a_client_that_leaves_does_not_cancel_the_post(serve: Serve, simulate: Simulate) -> None:
    simulator = simulate(hold=True)
    wire = UpstreamWire(simulator)
    async with wire.open() as url:
        service = await serve(simulator, loops=False, apiframe_base_url=url, upstream_timeout_seconds=60)
        wire.hold = True
        async with in_process(service) as leaving:
            left = asyncio.create_task(leaving.post("/v2/images/generate", json=FLUX))
            await eventually(wire.held_count)
            left.cancel()
            await asyncio.wait([left])
        assert left.cancelled()
        wire.held[0].set()

        await eventually(
            lambda: service.rows("SELECT upstream_id FROM jobs"), lambda rows: rows[0].upstream_id is not None
        )
    assert (await counters(simulator))["submissions"] == 1


def in_process(service: Service) -> httpx.AsyncClient:
    """A client that calls the application without a socket: cancelling its request cancels the handler.

    Servers differ in what they do with the handler of a client that left; this is the worst.
    """
    transport = httpx.ASGITransport(app=service.server.config.app)  # type: ignore[arg-type]
    return httpx.AsyncClient(transport=transport, base_url=service.url, headers={"X-API-Key": service.caller.key})


# 9. Dedupe.


@pytest.mark.parametrize("signature", [None, "0" * 64], ids=["unsigned", "wrongly signed"])
async def test_kernel_rule_9_a_copy_that_was_not_believed_does_not_shadow_a_later_signed_one(
    serve: Serve, simulate: Simulate, signature: str | None
) -> None:
    simulator = simulate(hold=True)
    service = await serve(simulator, loops=False)
    job = await held_job(service, simulator)

    await post_webhook(service, job.url, job.says("completed"), signature)
    assert (await service.job(job.id)).status == "QUEUED"
    await say(service, job, event="completed")

    assert (await service.job(job.id)).status == "COMPLETED"
    await post_webhook(service, job.url, job.says("completed"), signature)
    rows = await service.rows("SELECT signature, applied FROM receipts ORDER BY received_at")
    assert rows == [("wrong" if signature else "absent", False), ("valid", True)]


async def test_kernel_rule_9_bytes_whose_key_was_not_known_yet_are_applied_when_it_is(
    serve: Serve, simulate: Simulate
) -> None:
    simulator = simulate(hold=True)
    before = await serve(simulator, loops=False)
    job = await held_job(before, simulator)
    body = job.says("completed")
    assert (await post_webhook(before, job.url, body, sign(body, OLD_KEY))).status_code == 401
    after = await serve(simulator, loops=False, apiframe_previous_api_keys=OLD_KEY)

    url = job.url.replace(before.url, after.url)
    answers = [await post_webhook(after, url, body, sign(body, OLD_KEY)) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert (await after.job(job.id)).status == "COMPLETED"
    assert len(await after.rows("SELECT 1 FROM receipts WHERE applied")) == 1


async def test_kernel_rule_9_copies_in_one_batch_are_told_apart_by_their_signatures(
    serve: Serve, simulate: Simulate
) -> None:
    simulator = simulate(hold=True)
    service = await serve(simulator, loops=False)
    job = await held_job(service, simulator)
    body = job.says("completed")
    signatures: tuple[dict[str, str], ...] = (
        {},
        {"x-webhook-signature": "0" * 64},
        {"x-webhook-signature": sign(body)},
    )
    copies = [read_webhook(service.ctx, UUID(job.id), body, headers) for headers in signatures]

    received = await asyncio.gather(*(service.ctx.batched(apply, copy) for copy in copies))

    assert received[-1].outcome == "applied"
    assert (await service.job(job.id)).status == "COMPLETED"
    assert await service.rows("SELECT signature FROM receipts WHERE applied") == [("valid",)]
