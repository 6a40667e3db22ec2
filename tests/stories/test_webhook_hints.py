"""Webhooks that are not believed: they have the upstream asked, seldom enough, and what it answers is believed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from app.jobs import dispatch, reconcile
from app.simulator.server import RunningSimulator
from tests.harness import FrozenClock, Service, books, eventually, held_job, post_webhook, tell
from tests.simulator.walks import sign

Serve = Callable[..., Any]
Simulate = Callable[..., RunningSimulator]

TROUBLE = "webhook signatures do not verify"


async def holding(serve: Serve, simulate: Simulate) -> tuple[Service, RunningSimulator, FrozenClock]:
    """A service without loops and with a clock that only the test moves, before an upstream that holds its jobs."""
    simulator = simulate(hold=True, webhook_field="both")
    service = await serve(simulator, loops=False)
    service.ctx.clock = clock = FrozenClock()
    return service, simulator, clock


async def polls(simulator: RunningSimulator) -> int:
    return int((await books(simulator))["counters"]["polls"])


async def readiness(service: Service) -> dict[str, Any]:
    answer = await service.caller.http.get("/readyz")
    assert answer.status_code == 200
    body: dict[str, Any] = answer.json()
    return body


async def test_a_wrong_signature_is_refused_and_has_the_job_asked_after(serve: Serve, simulate: Simulate) -> None:
    service, simulator, _ = await holding(serve, simulate)
    assert await readiness(service) == {"status": "ok", "degraded": []}

    forgeries: tuple[Callable[[bytes], str], ...] = (
        lambda body: sign(body, "afk_somebody_elses"),
        lambda body: sign(body + b" "),
        lambda body: sign(body)[:32],
        lambda _: "sha256=",
        lambda _: "x" * 43,
    )
    for forge in forgeries:
        job = await held_job(service, simulator)
        answer = await post_webhook(service, job.url, job.says("completed"), forge(job.says("completed")))
        assert answer.status_code == 401
        row = await service.job(job.id)
        assert (row.status, row.progress, row.result) == ("QUEUED", None, None)
        assert row.poll_at <= service.ctx.now()

    assert await service.rows("SELECT signature, applied FROM receipts") == [("wrong", False)] * 5
    assert await readiness(service) == {"status": "degraded", "degraded": [TROUBLE]}
    assert await reconcile.run_once(service.ctx) == 5


async def test_wrong_signatures_have_a_job_asked_after_at_most_once_a_minute(serve: Serve, simulate: Simulate) -> None:
    service, simulator, clock = await holding(serve, simulate)
    job = await held_job(service, simulator)
    await service.rows("UPDATE jobs SET poll_count = 20 RETURNING 1")  # the regular polls are rare by now
    asked = []

    for seconds in (0, 1, 30, 28, 2, 1, 59):  # at 0, 1, 31, 59, 61, 62 and 121 seconds
        clock.advance(seconds)
        for percent in (1, 2):
            body = job.says("progress", progress=percent)
            assert (await post_webhook(service, job.url, body, "0" * 64)).status_code == 401
        asked.append(await reconcile.run_once(service.ctx))

    assert asked == [1, 0, 0, 0, 1, 0, 1]
    assert await polls(simulator) == 3
    assert len(await service.rows("SELECT 1 FROM receipts")) == 3


async def test_an_unsigned_webhook_is_not_believed_but_the_upstream_that_is_asked_is(
    serve: Serve, simulate: Simulate
) -> None:
    service, simulator, _ = await holding(serve, simulate)
    job = await held_job(service, simulator)

    answer = await post_webhook(service, job.url, job.says("completed"), None)

    assert answer.status_code == 200
    assert (await service.job(job.id)).status == "QUEUED"
    assert await service.rows("SELECT signature, applied FROM receipts") == [("absent", False)]
    await tell(simulator, f"jobs/{job.upstream_id}/progress", progress=40, announce=False)
    assert await reconcile.run_once(service.ctx) == 1
    row = await service.job(job.id)
    assert (row.status, row.progress) == ("PROCESSING", 40)
    assert await readiness(service) == {"status": "ok", "degraded": []}


async def test_unsigned_webhooks_have_a_job_asked_after_at_most_once_in_ten_seconds(
    serve: Serve, simulate: Simulate
) -> None:
    service, simulator, clock = await holding(serve, simulate)
    job = await held_job(service, simulator)
    await service.rows("UPDATE jobs SET poll_count = 20 RETURNING 1")  # the regular polls are rare by now
    asked = 0

    for _ in range(31):
        for percent in (1, 2):
            assert (
                await post_webhook(service, job.url, job.says("progress", progress=percent), None)
            ).status_code == 200
        asked += await reconcile.run_once(service.ctx)
        clock.advance(1)

    assert asked == await polls(simulator) == 4  # at 0, 10, 20 and 30 seconds
    assert len(await service.rows("SELECT 1 FROM receipts")) == 4


async def test_a_hint_that_comes_too_soon_after_another_is_taken_when_its_time_comes(
    serve: Serve, simulate: Simulate
) -> None:
    """Or else a job whose upstream never signs learns of its end from the rare regular polls only."""
    service, simulator, clock = await holding(serve, simulate)
    job = await held_job(service, simulator)
    await post_webhook(service, job.url, job.says("progress", progress=50), None)
    assert await reconcile.run_once(service.ctx) == 1

    clock.advance(3)
    await tell(simulator, f"jobs/{job.upstream_id}/finish", announce=False)
    assert (await post_webhook(service, job.url, job.says("completed"), None)).status_code == 200
    clock.advance(10)
    await reconcile.run_once(service.ctx)

    assert (await service.job(job.id)).status == "COMPLETED"


async def asking(service: Service, simulator: RunningSimulator, jobs: int = 1) -> asyncio.Task[int]:
    """Polls under way: the upstream has read so many jobs, and its answers are held back until `release`."""
    asked = "polls" if jobs == 1 else "lists"

    async def count() -> int:
        return int((await books(simulator))["counters"][asked])

    before = await count()
    task = asyncio.create_task(reconcile.run_once(service.ctx))
    await eventually(count, lambda seen: seen == before + 1)
    return task


@pytest.mark.parametrize("hinted_before", [True, False], ids=["the second hint", "the first hint"])
async def test_a_hint_is_not_lost_with_an_answer_that_was_already_on_its_way(
    serve: Serve, simulate: Simulate, hinted_before: bool
) -> None:
    """The job ended after the upstream had read it for us, and before we heard what it read."""
    service, simulator, clock = await holding(serve, simulate)
    job = await held_job(service, simulator)
    await tell(simulator, "faults", stale_read_seconds=30)
    if hinted_before:
        await post_webhook(service, job.url, job.says("progress", progress=50), None)
    else:
        clock.advance(60)
    poll = await asking(service, simulator)

    await tell(simulator, f"jobs/{job.upstream_id}/finish", announce=False)
    assert (await post_webhook(service, job.url, job.says("completed"), None)).status_code == 200
    await tell(simulator, "release")
    assert await poll == 1
    await tell(simulator, "faults", stale_read_seconds=0)
    clock.advance(10)
    await reconcile.run_once(service.ctx)

    assert (await service.job(job.id)).status == "COMPLETED"


async def test_a_hint_is_not_put_off_by_a_progress_report_that_comes_after_it(serve: Serve, simulate: Simulate) -> None:
    service, simulator, _ = await holding(serve, simulate)
    job = await held_job(service, simulator)

    assert (await post_webhook(service, job.url, job.says("completed"), None)).status_code == 200
    late = job.says("progress", progress=50)
    assert (await post_webhook(service, job.url, late, sign(late))).status_code == 200
    await tell(simulator, f"jobs/{job.upstream_id}/finish", announce=False)
    assert await reconcile.run_once(service.ctx) == 1

    assert (await service.job(job.id)).status == "COMPLETED"


async def test_a_poll_that_was_overtaken_by_a_webhook_changes_nothing(serve: Serve, simulate: Simulate) -> None:
    service, simulator, clock = await holding(serve, simulate)
    job, other = [await held_job(service, simulator) for _ in range(2)]
    await tell(simulator, "faults", stale_read_seconds=30)
    clock.advance(60)
    poll = await asking(service, simulator, jobs=2)

    for body, url in ((job.says("completed", creditCost=7), job.url), (other.says("progress", progress=80), other.url)):
        assert (await post_webhook(service, url, body, sign(body))).status_code == 200
    ended = await service.job(job.id)
    await tell(simulator, "release")
    assert await poll == 2

    row = await service.job(job.id)
    assert (row.status, row.credit_cost, row.completed_at) == ("COMPLETED", 7, ended.completed_at)
    assert row.poll_at is None
    row = await service.job(other.id)
    assert (row.status, row.progress) == ("PROCESSING", 80)


async def test_a_hint_before_we_know_whom_to_ask_is_taken_as_soon_as_we_do(serve: Serve, simulate: Simulate) -> None:
    service, simulator, _ = await holding(serve, simulate)
    await tell(simulator, "faults", next=["early+unsigned"])
    job_id = await service.caller.accepted(Prefer="respond-async")

    assert await dispatch.run_once(service.ctx) == 1

    row = await service.job(job_id)
    assert row.status == "QUEUED"
    assert row.upstream_id == (await books(simulator))["jobs"][0]["job_id"]
    assert await reconcile.run_once(service.ctx) == 1
    assert (await service.job(job_id)).status == "COMPLETED"


async def test_an_unsigned_webhook_teaches_no_upstream_id(serve: Serve, simulate: Simulate) -> None:
    service, simulator, _ = await holding(serve, simulate)
    await tell(simulator, "faults", next=["accept_then_cut"])
    job = await held_job(service, simulator)

    for signature, status in ((None, 200), ("0" * 64, 401)):
        assert (await post_webhook(service, job.url, job.says("completed"), signature)).status_code == status
        row = await service.job(job.id)
        assert (row.upstream_id, row.status) == (None, "QUEUED")


@pytest.mark.parametrize("fault", ["unsigned", "wrong_signature"])
async def test_a_job_whose_webhooks_are_never_believed_still_completes(
    serve: Serve, simulate: Simulate, fault: str
) -> None:
    simulator = simulate(webhook_field="both", webhook_retries=1)
    await tell(simulator, "faults", **{fault: 1})
    service = await serve(simulator, sweep_seconds=0.1, reconcile_after_seconds=0.3)

    job_id = await service.caller.accepted()

    await eventually(lambda: service.caller.read(job_id), lambda job: job["status"] == "COMPLETED")
    assert await service.rows("SELECT 1 FROM receipts WHERE applied") == []
    degraded = [TROUBLE] if fault == "wrong_signature" else []
    await eventually(lambda: readiness(service), lambda seen: seen["degraded"] == degraded)


@pytest.mark.parametrize("signature", [None, "0" * 64], ids=["unsigned", "wrongly signed"])
async def test_a_copy_that_is_not_believed_never_shadows_the_signed_one(
    serve: Serve, simulate: Simulate, signature: str | None
) -> None:
    service, simulator, _ = await holding(serve, simulate)
    job = await held_job(service, simulator)

    await post_webhook(service, job.url, job.says("completed"), signature)
    assert (await post_webhook(service, job.url, job.says("completed"), sign(job.says("completed")))).status_code == 200

    assert (await service.job(job.id)).status == "COMPLETED"
    rows = await service.rows("SELECT signature, applied FROM receipts ORDER BY id")
    assert rows == [("wrong" if signature else "absent", False), ("valid", True)]
    await post_webhook(service, job.url, job.says("completed"), signature)
    assert len(await service.rows("SELECT 1 FROM receipts")) == 2


async def test_the_alarm_is_heard_however_many_unsigned_webhooks_come_in_between(
    serve: Serve, simulate: Simulate
) -> None:
    """Hints and alarms must not use up each other's turn: an operator would never learn that signatures fail."""
    service, simulator, clock = await holding(serve, simulate)
    job = await held_job(service, simulator)

    for percent in range(1, 8):
        await post_webhook(service, job.url, job.says("progress", progress=percent), None)
        assert (
            await post_webhook(service, job.url, job.says("progress", progress=percent), "0" * 64)
        ).status_code == 401
        clock.advance(10)

    assert (await readiness(service))["degraded"] == [TROUBLE]


async def test_the_alarm_is_heard_of_jobs_that_are_over(serve: Serve, simulate: Simulate) -> None:
    """Polls may be quicker than webhooks; signatures that fail are still what an operator must learn."""
    service, simulator, _ = await holding(serve, simulate)
    job = await held_job(service, simulator)
    await post_webhook(service, job.url, job.says("completed"), sign(job.says("completed")))

    assert (await post_webhook(service, job.url, job.says("completed"), "0" * 64)).status_code == 401

    assert (await readiness(service))["degraded"] == [TROUBLE]
