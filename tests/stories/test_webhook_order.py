"""Webhooks that are doubled, reordered, early, late, lost or another job's end in the same job as the orderly ones."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from itertools import permutations, product
from typing import Any
from uuid import UUID

import httpx
import pytest

from app.apiframe.signature import webhook_url
from app.clock import SettableClock
from app.jobs import dispatch, expire, reconcile
from app.jobs.schedule import AMBIGUOUS_WINDOW
from app.models.jobs import FINAL
from app.simulator.server import RunningSimulator
from app.webhooks.receive import apply, read_webhook
from tests.harness import (
    HeldJob,
    Service,
    books,
    count_changes,
    eventually,
    held_job,
    post_webhook,
    running_service,
    settings_for,
    tell,
)
from tests.processes.harness import free_port
from tests.simulator.walks import sign

Serve = Callable[..., Any]
Simulate = Callable[..., RunningSimulator]

RESULT = {"images": ["https://cdn.example/1.png", "https://cdn.example/2.png"]}
ENDED_AT = "2026-03-01T12:00:00.123Z"
SAID = "status, progress, result, error, error_code, credit_cost, completed_at, concluded_by"


def progress(job: HeldJob, percent: int) -> bytes:
    said = {"event": "progress", "jobId": job.upstream_id, "status": "PROCESSING", "progress": percent, "model": "m"}
    return json.dumps(said).encode()


def completed(job: HeldJob, cost: int = 10) -> bytes:
    said = {"event": "completed", "jobId": job.upstream_id, "status": "COMPLETED", "progress": 100, "result": RESULT}
    return json.dumps(said | {"model": "m", "creditCost": cost, "completedAt": ENDED_AT}).encode()


def failed(job: HeldJob) -> bytes:
    return json.dumps({"event": "failed", "jobId": job.upstream_id, "status": "FAILED", "error": "Blocked"}).encode()


async def post(service: Service, url: str, body: bytes) -> httpx.Response:
    """Post a webhook signed as the vendor's client expects it."""
    return await post_webhook(service, url, body, f"sha256={sign(body)}")


async def holding(serve: Serve, simulate: Simulate, **settings: Any) -> tuple[Service, RunningSimulator]:
    """A service without loops, before an upstream whose jobs move by what the test posts."""
    simulator = simulate(hold=True, webhook_field="both", max_concurrent_jobs=100)
    service = await serve(simulator, **{"loops": False, "max_in_flight": 100} | settings)
    return service, simulator


async def said_of(service: Service, job_id: str) -> Any:
    (row,) = await service.rows(f"SELECT {SAID} FROM jobs WHERE id = :id", id=job_id)
    return row


async def is_complete(service: Service, job: HeldJob) -> None:
    """The job that every sequence with one `completed` must come to."""
    row = await service.job(job.id)
    assert (row.status, row.progress, row.result, row.credit_cost) == ("COMPLETED", 100, RESULT, 10)
    assert (row.error, row.error_code, row.concluded_by) == (None, None, "upstream")
    assert row.completed_at.isoformat(timespec="milliseconds") == ENDED_AT.replace("Z", "+00:00")
    assert row.upstream_id == job.upstream_id


async def test_a_hundred_concurrent_copies_at_two_processes_are_all_acknowledged_and_applied_once(
    serve: Serve, simulate: Simulate
) -> None:
    service, simulator = await holding(serve, simulate)
    second = await serve(simulator, loops=False)
    job = await held_job(service, simulator)
    await count_changes(service)
    path = job.url.removeprefix(service.url)

    answers = await asyncio.gather(
        *(post(at, at.url + path, completed(job)) for at in (service, second) for _ in range(50))
    )

    assert {answer.status_code for answer in answers} == {200}
    await is_complete(service, job)
    assert await service.rows("SELECT before, after FROM changes") == [("QUEUED", "COMPLETED")]
    assert await service.rows("SELECT applied, outcome, signature FROM receipts") == [(True, "applied", "valid")]


async def test_the_same_signed_bytes_later_do_nothing(serve: Serve, simulate: Simulate) -> None:
    service, simulator = await holding(serve, simulate)
    job = await held_job(service, simulator)
    for body in (progress(job, 25), progress(job, 75)):
        assert (await post(service, job.url, body)).status_code == 200
    before = await service.job(job.id)

    answers = [await post(service, job.url, progress(job, percent)) for percent in (25, 75, 25)]

    assert {answer.status_code for answer in answers} == {200}
    assert await service.job(job.id) == before
    assert len(await service.rows("SELECT 1 FROM receipts")) == 2


async def test_every_order_subset_and_repetition_of_a_jobs_webhooks_ends_in_the_same_job(
    serve: Serve, simulate: Simulate
) -> None:
    service, simulator = await holding(serve, simulate)
    subsets = [kinds for size in (1, 2, 3) for kinds in permutations(("25", "75", "end"), size)]
    doubled = {order for kind in ("25", "75", "end") for order in permutations(("25", "75", "end", kind))}
    sequences = [*subsets, *sorted(doubled)]
    assert len(sequences) == 15 + 36

    async def play(sequence: Sequence[str]) -> tuple[HeldJob, set[int]]:
        job = await held_job(service, simulator)
        bodies = [completed(job) if kind == "end" else progress(job, int(kind)) for kind in sequence]
        return job, {(await post(service, job.url, body)).status_code for body in bodies}

    played = await asyncio.gather(*(play(sequence) for sequence in sequences))

    for sequence, (job, statuses) in zip(sequences, played, strict=True):
        assert statuses == {200}, sequence
        if "end" in sequence:
            await is_complete(service, job)
        else:
            row = await service.job(job.id)
            assert (row.status, row.progress) == ("PROCESSING", max(map(int, sequence))), sequence


async def test_nothing_that_comes_after_the_final_changes_a_job(serve: Serve, simulate: Simulate) -> None:
    service, simulator = await holding(serve, simulate)
    job = await held_job(service, simulator)
    await post(service, job.url, completed(job))
    ended = await service.job(job.id)

    for body in (progress(job, 50), failed(job), completed(job, cost=99)):
        assert (await post(service, job.url, body)).status_code == 200
        assert await service.job(job.id) == ended

    await is_complete(service, job)


async def test_a_webhook_before_the_submit_answer_moves_the_job_and_teaches_it_its_upstream_id(
    serve: Serve, simulate: Simulate
) -> None:
    """The answer, when it comes at last, changes nothing; and where it never comes nothing is sent again."""
    service, simulator = await holding(serve, simulate)
    await count_changes(service)
    for events, answer in product(
        (["progress"], ["completed"], ["progress", "completed"]), ("none", "accept_then_error", "accept_then_cut")
    ):
        await tell(simulator, "faults", next=[f"early+{answer}"], early_events=events)
        job_id = await service.caller.accepted(Prefer="respond-async")

        assert await dispatch.run_once(service.ctx) == 1

        seen = await books(simulator)
        (theirs,) = [job for job in seen["jobs"] if job["idempotency_key"] == job_id]
        sent = [send["answer_status"] for send in seen["webhooks"] if send["job_id"] == theirs["job_id"]]
        assert sent == [200] * len(events)
        row = await service.job(job_id)
        assert row.upstream_id == theirs["job_id"]
        assert row.status == ("COMPLETED" if "completed" in events else "PROCESSING")
        assert (row.dispatch_at, row.lease_token) == (None, None)
        assert len(await service.rows("SELECT 1 FROM changes WHERE job_id = :id", id=job_id)) == len(events)

    service.ctx.clock = clock = SettableClock()
    clock.advance(3600)
    assert await dispatch.run_once(service.ctx) == 0


async def test_a_webhook_that_completes_a_job_while_its_caller_waits_is_what_the_caller_finds(
    serve: Serve, simulate: Simulate
) -> None:
    service, simulator = await holding(serve, simulate)
    await tell(simulator, "faults", early=1)

    answer = await service.caller.submit()

    assert answer.status_code == 202
    job = await service.caller.read(answer.json()["jobId"])
    assert (job["status"], job["creditCost"]) == ("COMPLETED", 10)


@pytest.mark.parametrize("knows", [True, False], ids=["knowing its own id", "not knowing its own id"])
async def test_a_webhook_of_another_job_changes_nothing_and_the_job_still_completes(
    serve: Serve, simulate: Simulate, knows: bool
) -> None:
    service, simulator = await holding(serve, simulate)
    one = await held_job(service, simulator)
    await tell(simulator, "faults", next=["none" if knows else "accept_then_cut"])
    other = await held_job(service, simulator)
    before = await service.job(other.id)
    assert (before.upstream_id is not None) == knows

    for body in (progress(one, 50), completed(one), failed(one)):
        assert (await post(service, other.url, body)).status_code == 409

    assert await service.job(other.id) == before
    assert (await service.job(one.id)).status == "QUEUED"
    assert not await service.rows("SELECT 1 FROM receipts WHERE applied")
    assert (await post(service, other.url, completed(other))).status_code == 200
    await is_complete(service, other)
    assert (await service.job(one.id)).status == "QUEUED"


async def test_of_two_jobs_in_one_transaction_only_one_can_be_taught_an_upstream_id(
    serve: Serve, simulate: Simulate
) -> None:
    service, simulator = await holding(serve, simulate)
    await tell(simulator, "faults", next=["accept_then_cut"] * 2)
    one, other = [await held_job(service, simulator) for _ in range(2)]
    headers = {"x-webhook-signature": sign(completed(one))}

    async with service.ctx.db.transaction() as tx:
        received = await apply(
            service.ctx,
            tx,
            [read_webhook(service.ctx, UUID(at.id), completed(one), headers) for at in (one, other)],
        )

    assert [each.outcome for each in received] == ["applied", "other job"]
    assert (await service.job(other.id)).upstream_id is None


async def test_concurrent_copies_of_another_jobs_webhook_are_all_refused(serve: Serve, simulate: Simulate) -> None:
    """None may be told 2xx: that would say that it was committed."""
    service, simulator = await holding(serve, simulate)
    one, other = [await held_job(service, simulator) for _ in range(2)]

    answers = await asyncio.gather(*(post(service, other.url, completed(one)) for _ in range(20)))

    assert {answer.status_code for answer in answers} == {409}


async def test_a_webhook_for_a_job_that_was_never_sent_is_refused(serve: Serve, simulate: Simulate) -> None:
    """However well signed: what was never sent cannot be accepted, so the message is about something else."""
    service, _ = await holding(serve, simulate)
    job_id = await service.caller.accepted(Prefer="respond-async")
    before = await service.job(job_id)
    secret = (await service.ctx.webhook_secrets())[0]
    unsent = HeldJob(job_id, "9d7f1c1e-0000-4000-8000-000000000000", webhook_url(service.url, secret, before.id))

    assert (await post(service, unsent.url, completed(unsent))).status_code == 409

    assert await service.job(job_id) == before
    assert await dispatch.run_once(service.ctx) == 1
    assert (await service.job(job_id)).status == "QUEUED"


async def test_our_own_conclusion_yields_to_a_late_webhook_once(serve: Serve, simulate: Simulate) -> None:
    service, simulator = await holding(serve, simulate)
    service.ctx.clock = clock = SettableClock()
    await tell(simulator, "faults", next=["accept_then_cut"])
    job = await held_job(service, simulator)
    clock.advance(AMBIGUOUS_WINDOW.total_seconds() + 60)
    assert await expire.run_once(service.ctx) == 1
    given_up = await said_of(service, job.id)
    assert (given_up.status, given_up.error_code) == ("FAILED", "submission_unknown")

    assert (await post(service, job.url, progress(job, 50))).status_code == 200
    assert await said_of(service, job.id) == given_up
    assert (await service.job(job.id)).upstream_id == job.upstream_id
    assert (await post(service, job.url, completed(job))).status_code == 200
    await is_complete(service, job)
    assert (await post(service, job.url, failed(job))).status_code == 200
    await is_complete(service, job)


async def test_a_job_that_we_gave_up_is_asked_after_once_a_webhook_says_that_the_upstream_has_it(
    serve: Serve, simulate: Simulate
) -> None:
    """Its final webhook may be lost like any other, and it may have cost credits."""
    service, simulator = await holding(serve, simulate)
    service.ctx.clock = clock = SettableClock()
    await tell(simulator, "faults", next=["accept_then_cut"])
    job = await held_job(service, simulator)
    clock.advance(AMBIGUOUS_WINDOW.total_seconds() + 60)
    assert await expire.run_once(service.ctx) == 1

    await post(service, job.url, progress(job, 50))
    await tell(simulator, f"jobs/{job.upstream_id}/finish", announce=False)
    clock.advance(3600)
    await reconcile.run_once(service.ctx)

    assert (await service.job(job.id)).status == "COMPLETED"


FAULTS: dict[str, dict[str, Any]] = {
    "disorder": {"reorder": 0.5, "double": 0.5, "late": 0.5, "late_seconds": 0.2},
    "nothing arrives": {"drop": 1},
    "everything": {
        "drop": 0.3, "double": 0.3, "late": 0.3, "late_seconds": 0.2, "unsigned": 0.3, "wrong_signature": 0.3,
        "no_retries": 0.5, "early": 0.3, "reorder": 0.3, "accept_then_cut": 0.1, "accept_then_error": 0.1,
        "fail": 0.2, "cancel": 0.1,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", FAULTS)
async def test_a_crowd_of_jobs_under_faults_ends_as_the_upstreams_books_say_each_once(
    serve: Serve, simulate: Simulate, kind: str
) -> None:
    simulator = simulate(webhook_field="both", max_concurrent_jobs=100, generate_seconds=0.05)
    service = await serve(simulator, max_in_flight=100, reconcile_after_seconds=0.3, sweep_seconds=0.1)
    await count_changes(service)
    await tell(simulator, "faults", **FAULTS[kind])

    await asyncio.gather(*(service.caller.accepted() for _ in range(15)))
    rows = await eventually(
        lambda: service.rows("SELECT upstream_id, status, credit_cost FROM jobs"),
        lambda rows: all(row.status in FINAL for row in rows),
    )

    theirs = {job["job_id"]: job for job in (await books(simulator))["jobs"]}
    assert len(rows) == len(theirs) == 15
    for row in rows:
        assert row.status == theirs[row.upstream_id]["status"]
        assert row.credit_cost == theirs[row.upstream_id]["credit_cost"]
    finals = await service.rows("SELECT job_id FROM changes WHERE after IN ('COMPLETED', 'FAILED', 'CANCELLED')")
    assert len(finals) == len(set(finals)) == 15


async def test_webhooks_that_find_the_service_away_are_made_up_for(
    database_url: str, serve: Serve, simulate: Simulate
) -> None:
    """A job goes on upstream while no process of ours runs, and nobody at its address; the next one that starts asks."""
    simulator = simulate(hold=True, webhook_field="both", webhook_retries=0)
    settings = {"reconcile_after_seconds": 0.2, "public_base_url": f"http://127.0.0.1:{free_port()}"}
    async with running_service(settings_for(database_url, simulator, **settings)) as gone:
        job = await held_job(gone, simulator)
    await tell(simulator, f"jobs/{job.upstream_id}/finish", wait=True)
    assert [sent["answer_status"] for sent in (await books(simulator))["webhooks"]] == [None]

    service = await serve(simulator, reconcile_after_seconds=0.2)

    await eventually(lambda: service.job(job.id), lambda row: row.status == "COMPLETED")
