"""Retention: what is past its time goes, by the day and by the batch, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, timedelta
from typing import Any, Final
from uuid import uuid4

import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from app import partitions
from app.clock import SettableClock, first_id
from app.deliveries.queries import history
from app.jobs import expire
from app.ops import pruning
from app.ops.pruning import prune_once
from app.simulator.server import RunningSimulator
from app.webhooks import queries as receipts
from tests.harness import FLUX, HeldJob, Service, held_job, post_webhook
from tests.locks import holding
from tests.ops.aged import DAY, a_delivery, a_replay, days_of, id_of, ids, insert, noon
from tests.simulator.walks import sign

RETENTION: Final = 30
OLD: Final = (RETENTION + 2) * DAY
RECENT: Final = (RETENTION - 2) * DAY

DAYS: Final = {"events": 60, "steps": 60, "attempts": RETENTION, "receipt_bodies": 20}


@pytest.fixture
async def quiet(serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]) -> Service:
    """A service that prunes nothing by itself, and whose clock the test moves, from a noon. Its upstream ends no job."""
    days = {"attempts_days": RETENTION, "events_days": 60, "receipts_days": 20, "audit_days": 70}
    started: Service = await serve(simulate(hold=True), loops=False, **days)
    started.ctx.clock = noon()
    return started


@pytest.fixture
async def subscription(quiet: Service) -> str:
    """The subscription that the deliveries of these tests are for."""
    subscriber = await quiet.new_caller("tests", scopes=("subscribe",))
    answer = await subscriber.http.post(
        "/v1/subscriptions", json={"url": "http://127.0.0.1:9/hook", "types": ["job.*"]}
    )
    created: str = answer.json()["id"]
    return created


async def prune(service: Service) -> int:
    """Prune until there is nothing to do, readers' grace and all; how much that was."""
    done = 0
    for _ in range(2):
        while count := await prune_once(service.ctx):
            done += count
        service.ctx.clock.advance(120)  # type: ignore[attr-defined]
    return done


async def test_each_table_keeps_its_days_and_those_before_are_dropped(quiet: Service) -> None:
    now = quiet.ctx.now()
    async with quiet.ctx.db.transaction() as tx:
        for days in {*DAYS.values(), 65}:  # each with the day before it
            await partitions.ensure(tx, now - days * DAY, days=0)
    before = {table: await days_of(quiet, table) for table in partitions.TABLES}

    dropped = await prune(quiet)

    assert set(partitions.TABLES) == set(DAYS)
    gone = {table: before[table] - await days_of(quiet, table) for table in DAYS}
    past = {table: {f"{now - age * DAY:%Y%m%d}" for age in range(days + 1, 100)} for table, days in DAYS.items()}
    assert gone == {table: before[table] & past[table] for table in DAYS}
    assert [len(gone[table]) for table in ("events", "attempts", "receipt_bodies")] == [3, 5, 7]
    assert dropped == sum(map(len, gone.values()))


async def test_deliveries_that_ended_go_with_their_events_and_the_others_stay(
    quiet: Service, subscription: str
) -> None:
    for status in ("delivered", "undelivered", "dropped"):
        await a_delivery(quiet, OLD, subscription, status=status)
    await a_delivery(quiet, OLD, None, event_type="job.progress", status="dropped")
    stay = {
        await a_delivery(quiet, OLD, subscription, status="pending", ended_at=None, due_at=quiet.ctx.now() + DAY),
        await a_delivery(quiet, RECENT, subscription),
        await a_delivery(quiet, RECENT, subscription, status="undelivered"),
        await a_delivery(quiet, OLD, subscription, id=uuid7()),  # made for an old event, a moment ago
        await a_delivery(quiet, OLD, subscription, event_at=quiet.ctx.now()),
    }

    assert await prune(quiet) == 4
    assert await ids(quiet, "deliveries") == stay


async def test_a_delivery_stays_as_long_as_the_day_of_its_event(quiet: Service, subscription: str) -> None:
    now = quiet.ctx.now()
    midnight = (now - RETENTION * DAY).astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    hour = timedelta(hours=1)
    kept = await a_delivery(quiet, now - midnight - hour, subscription)
    await a_delivery(quiet, now - midnight + hour, subscription)

    assert await prune_once(quiet.ctx) == 1
    assert await ids(quiet, "deliveries") == {kept}


async def test_a_job_goes_on_saying_how_its_callback_fared(quiet: Service) -> None:
    body = FLUX | {"webhook_url": "http://127.0.0.1:9/hook"}
    job_id = await quiet.caller.accepted(body, Prefer="respond-async")
    kept = await a_delivery(quiet, OLD, None, job_id=job_id)

    assert await prune(quiet) == 0
    assert await ids(quiet, "deliveries") == {kept}
    assert (await quiet.caller.read(job_id))["webhookStatus"] == "delivered"


async def test_replays_that_ended_before_retention_go(quiet: Service, subscription: str) -> None:
    await a_replay(quiet, OLD + DAY, subscription, OLD)
    stay = {
        await a_replay(quiet, OLD, subscription, RECENT),
        await a_replay(quiet, OLD, subscription, None),
        await a_replay(quiet, RECENT, subscription, RECENT),
    }

    assert await prune(quiet) == 1
    assert await ids(quiet, "replays") == stay


async def test_rows_go_a_batch_at_a_time_until_there_are_none(
    quiet: Service, subscription: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "BATCH", 2)
    for _ in range(5):
        await a_delivery(quiet, OLD, subscription)
    for _ in range(3):
        await a_replay(quiet, OLD + DAY, subscription, OLD)

    assert [await prune_once(quiet.ctx) for _ in range(4)] == [4, 3, 1, 0]


async def test_a_delivery_that_somebody_has_made_again_meanwhile_stays(quiet: Service, subscription: str) -> None:
    kept = await a_delivery(quiet, OLD, subscription, status="undelivered")
    await a_delivery(quiet, OLD, subscription)

    async with quiet.ctx.db.transaction() as tx:
        await tx.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        await history.make_due(tx, [kept], quiet.ctx.now())
        assert await prune_once(quiet.ctx) == 1
    assert await prune_once(quiet.ctx) == 0
    assert await ids(quiet, "deliveries") == {kept}


async def test_a_partition_that_is_in_use_keeps_nothing_else_and_is_dropped_later(
    quiet: Service, subscription: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "DROP_WAIT_SECONDS", 0.1)
    day = f"{quiet.ctx.now() - OLD:%Y%m%d}"
    async with quiet.ctx.db.transaction() as tx:
        await partitions.ensure(tx, quiet.ctx.now() - OLD, days=0)
        await tx.exec_driver_sql(f"DROP TABLE attempts_{quiet.ctx.now() - OLD - DAY:%Y%m%d}")
    await a_delivery(quiet, OLD, subscription)

    async with holding(quiet, f"SELECT 1 FROM attempts_{day}"):
        await prune(quiet)
        assert await ids(quiet, "deliveries") == set()
        assert day in await days_of(quiet, "attempts")
    await prune(quiet)
    assert day not in await days_of(quiet, "attempts")


# Receipts


async def a_receipt(service: Service, job_id: str, age: timedelta, *, outcome: str = "applied") -> None:
    at = service.ctx.now() - age
    values = {"id": id_of(at), "job_id": job_id, "received_at": at, "digest": uuid4().bytes, "signature": "valid"}
    await insert(service, "receipts", values | {"event": "progress", "applied": True, "outcome": outcome})


async def said(service: Service, job: HeldJob, body: bytes) -> Any:
    """Post a webhook and return what the job is then, and how many events there are."""
    assert (await post_webhook(service, job.url, body, sign(body))).status_code == 200
    row = (await service.job(job.id))._asdict()
    return row, [event.type for event in await service.rows("SELECT type FROM events ORDER BY sequence")]


async def test_webhooks_of_jobs_that_are_over_or_gone_go_and_those_of_others_stay(
    quiet: Service,
) -> None:
    over, running = [await quiet.caller.accepted() for _ in range(2)]
    async with quiet.ctx.db.transaction() as tx:
        await tx.exec_driver_sql(f"UPDATE jobs SET status = 'CANCELLED', completed_at = now() WHERE id = '{over}'")
    for job_id in (over, running, str(uuid4())):
        for age in (22, 18):
            await a_receipt(quiet, job_id, age * DAY, outcome=f"{age} days")

    assert await prune(quiet) == 2
    left = await quiet.rows("SELECT job_id, outcome FROM receipts WHERE outcome LIKE '%days' ORDER BY outcome")
    assert [row.outcome for row in left] == ["18 days"] * 3 + ["22 days"]
    assert str(left[-1].job_id) == running


async def test_a_copy_of_a_webhook_that_is_forgotten_changes_nothing(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    """Neither of a job that the upstream ended nor of one that we gave up ourselves."""
    simulator = simulate(hold=True)
    quiet: Service = await serve(simulator, loops=False, receipts_days=4)
    clock = quiet.ctx.clock = SettableClock()
    ended, given_up = [await held_job(quiet, simulator) for _ in range(2)]
    progress = {"status": "PROCESSING", "progress": 50, "model": "m"}
    final = ended.says("completed", status="COMPLETED", progress=100, result={"images": []}, model="m", creditCost=7)
    bodies = [
        (ended, ended.says("progress", **progress)),
        (ended, final),
        (given_up, given_up.says("progress", **progress)),
    ]
    for job, body in bodies:
        await said(quiet, job, body)
    clock.advance(25 * 3600)
    assert await expire.run_once(quiet.ctx) == 1
    before = {job.id: (await said(quiet, job, body)) for job, body in bodies}
    assert [before[job.id][0]["status"] for job in (ended, given_up)] == ["COMPLETED", "FAILED"]
    clock.advance(6 * 24 * 3600)

    await prune(quiet)
    assert await quiet.rows("SELECT 1 FROM receipts") == []
    assert {job.id: (await said(quiet, job, body)) for job, body in bodies} == before
    told = await quiet.rows("SELECT outcome FROM receipts")
    assert [row.outcome for row in told] == ["after the end"] * 3


# The audit log


async def test_the_audit_log_is_kept_for_ever_unless_it_is_said_for_how_long(
    quiet: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    for age in (72, 71, 69):
        at = quiet.ctx.now() - age * DAY
        values = {"id": id_of(at), "at": at, "actor": "cli", "action": "key.made", "subject": str(age), "data": "{}"}
        await insert(quiet, "audit_log", values)
    settings = quiet.ctx.settings
    monkeypatch.setattr(quiet.ctx, "settings", settings.model_copy(update={"audit_days": None}))
    assert await prune(quiet) == 0
    monkeypatch.setattr(quiet.ctx, "settings", settings)
    assert await prune(quiet) == 2
    assert [row.subject for row in await quiet.rows("SELECT subject FROM audit_log")] == ["69"]


async def test_what_is_past_retention_is_found_by_the_primary_key(quiet: Service, subscription: str) -> None:
    """What is within retention is not gone through."""
    await a_delivery(quiet, RECENT, subscription)
    async with quiet.ctx.db.transaction() as tx:
        await tx.execute(
            text(
                """
                INSERT INTO deliveries (id, event_id, event_at, event_type, team_id, subscription_id, target, created_at,
                    status, ended_at)
                SELECT CAST(lpad(to_hex(n), 8, '0') || right(CAST(CAST(:newest AS uuid) AS text), 28) AS uuid),
                    gen_random_uuid(), event_at, event_type, team_id, subscription_id, target, created_at, status, ended_at
                FROM deliveries CROSS JOIN generate_series(x'7fff0000'::int, x'7fff0000'::int + 5000) AS n
                """
            ),
            {"newest": uuid7()},
        )
    async with quiet.ctx.db.reading() as connection:
        await connection.execute(text("VACUUM ANALYZE deliveries"))
    before = quiet.ctx.now() - RETENTION * DAY
    assert "Index Scan Backward using pk_deliveries" in await plan_of(quiet, history._DELETE_ENDED.text, before)


async def test_webhooks_past_their_time_are_found_by_the_primary_key_and_their_jobs_too(quiet: Service) -> None:
    async with quiet.ctx.db.transaction() as tx:
        await tx.exec_driver_sql(
            """
            INSERT INTO receipts (id, job_id, received_at, digest, signature, applied, outcome)
            SELECT CAST('0199' || right(CAST(gen_random_uuid() AS text), 32) AS uuid), gen_random_uuid(), now(), '', 'valid',
                false, 'hint'
            FROM generate_series(1, 5000)
            """
        )
    async with quiet.ctx.db.reading() as connection:
        await connection.execute(text("VACUUM ANALYZE receipts"))
    plan = await plan_of(quiet, receipts._DELETE_OLD.text, quiet.ctx.now() - RETENTION * DAY)
    assert "Index Scan using pk_receipts" in plan
    assert "Index Scan using pk_jobs" in plan


async def plan_of(service: Service, statement: str, before: Any) -> str:
    """How PostgreSQL means to go about it; not by reading a whole table."""
    parameters = {"before": before, "before_id": first_id(before), "limit": 1000}
    used = {name: value for name, value in parameters.items() if f":{name}" in statement.replace(":before_id", ":id_")}
    used |= {"before_id": parameters["before_id"]}
    rows = await service.rows(f"EXPLAIN {statement}", **used)
    plan = "\n".join(row[0] for row in rows)
    assert "Seq Scan" not in plan, plan
    return plan
