"""Retention: what is past it goes, by the day and by the batch, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from uuid_utils.compat import uuid7

from app import partitions
from app.clock import SettableClock, first_id
from app.deliveries.queries import history
from app.ops import pruning
from app.ops.pruning import prune_once
from app.simulator.server import RunningSimulator
from tests.harness import FLUX, Service

DAY: Final = timedelta(days=1)
RETENTION: Final = 30
OLD: Final = (RETENTION + 2) * DAY
RECENT: Final = (RETENTION - 2) * DAY


@pytest.fixture
async def quiet(serve: Callable[..., Any], simulator: RunningSimulator) -> Service:
    """A service that prunes nothing by itself, and whose clock the test moves."""
    started: Service = await serve(simulator, loops=False, retention_days=RETENTION)
    started.ctx.clock = SettableClock()
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


def id_of(time: datetime) -> UUID:
    """An id as it would have been made then."""
    return UUID(int=first_id(time).int | uuid4().int & (1 << 62) - 1)


async def insert(service: Service, table: str, values: dict[str, Any]) -> UUID:
    places = ", ".join(f":{column}" for column in values)
    async with service.ctx.db.transaction() as tx:
        await tx.execute(text(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({places})"), values)
    made: UUID = values["id"]
    return made


async def a_delivery(service: Service, age: timedelta, subscription: str | None, **values: Any) -> UUID:
    """A delivery of that age, of an event as old; it was made, unless it is told otherwise."""
    at = service.ctx.now() - age
    usual = {
        "id": id_of(at),
        "event_id": id_of(at),
        "event_at": at,
        "event_type": "job.completed",
        "team_id": uuid4(),
        "subscription_id": subscription,
        "callback_url": None if subscription else "http://127.0.0.1:9/hook",
        "target": subscription or "callback 127.0.0.1:9",
        "created_at": at,
        "status": "delivered",
        "ended_at": at,
        "due_at": None,
    }
    return await insert(service, "deliveries", usual | values)


async def a_replay(service: Service, began: timedelta, subscription: str, ended: timedelta | None) -> UUID:
    """A replay that began so long ago, and ended so long ago or runs."""
    now = service.ctx.now()
    values = {
        "id": id_of(now - began),
        "subscription_id": subscription,
        "created_at": now - began,
        "created_by": "cli",
        "undelivered_only": False,
        "per_second": 50,
        "total_count": 1,
        "status": "running" if ended is None else "done",
        "due_at": now + DAY,
        "ended_at": None if ended is None else now - ended,
    }
    return await insert(service, "replays", values)


async def ids(service: Service, table: str) -> set[UUID]:
    return {row.id for row in await service.rows(f"SELECT id FROM {table}")}


async def prune(service: Service) -> int:
    """Prune until there is nothing to do, readers' grace and all; how much that was."""
    done = 0
    for _ in range(2):
        while count := await prune_once(service.ctx):
            done += count
        service.ctx.clock.advance(120)  # type: ignore[attr-defined]
    return done


async def days_of(service: Service, table: str) -> set[str]:
    rows = await service.rows(
        "SELECT right(inhrelid::regclass::text, 8) AS day FROM pg_inherits"
        " WHERE inhparent = CAST(CAST(:table AS text) AS regclass)",
        table=table,
    )
    return {row.day for row in rows}


async def test_the_days_past_retention_are_dropped_from_every_table_and_those_within_stay(quiet: Service) -> None:
    now = quiet.ctx.now()
    async with quiet.ctx.db.transaction() as tx:
        for age in (40, RETENTION, 10):  # each with the day before it
            await partitions.ensure(tx, now - age * DAY, days=0)
    today = {table: await days_of(quiet, table) for table in partitions.TABLES}

    dropped = await prune(quiet)

    assert set(partitions.TABLES) >= {"attempts", "events", "receipt_bodies", "steps"}
    gone = {f"{now - age * DAY:%Y%m%d}" for age in (41, 40, RETENTION + 1)}
    for table in partitions.TABLES:
        assert await days_of(quiet, table) == today[table] - gone
        assert f"{now - RETENTION * DAY:%Y%m%d}" in today[table] - gone
    assert dropped == 3 * len(partitions.TABLES)


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
    seconds = timedelta(seconds=10)
    kept = await a_delivery(quiet, now - midnight - seconds, subscription)
    await a_delivery(quiet, now - midnight + seconds, subscription)

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
        await history.make_due(tx, [kept], quiet.ctx.now())
        assert await prune_once(quiet.ctx) == 1
    assert await prune_once(quiet.ctx) == 0
    assert await ids(quiet, "deliveries") == {kept}


async def test_a_partition_that_is_in_use_keeps_no_rows_from_going(
    quiet: Service, subscription: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "DROP_WAIT_SECONDS", 0.1)
    name = f"attempts_{quiet.ctx.now() - OLD:%Y%m%d}"
    async with quiet.ctx.db.transaction() as tx:
        await partitions.ensure(tx, quiet.ctx.now() - OLD, days=0)
        await tx.exec_driver_sql(f"DROP TABLE attempts_{quiet.ctx.now() - OLD - DAY:%Y%m%d}")
    await a_delivery(quiet, OLD, subscription)

    async with quiet.ctx.db.transaction() as tx:
        await tx.exec_driver_sql(f"SELECT 1 FROM {name}")
        with pytest.raises(DBAPIError, match="lock timeout"):
            await prune(quiet)
    assert await ids(quiet, "deliveries") == set()
    await prune(quiet)
    assert f"{quiet.ctx.now() - OLD:%Y%m%d}" not in await days_of(quiet, "attempts")


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

    parameters = {"before": before, "before_id": first_id(before), "limit": 1000}
    rows = await quiet.rows(f"EXPLAIN {history._DELETE_ENDED.text}", **parameters)

    plan = "\n".join(row[0] for row in rows)
    assert "Index Scan Backward using pk_deliveries" in plan
    assert "Seq Scan" not in plan
