"""Daily partitions: two weeks ahead after every migration, made once whoever makes them, and missed in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app import partitions
from app.clock import SettableClock
from app.db import Database
from app.partitions import TABLES
from app.simulator.server import RunningSimulator
from tests.harness import Service, eventually

DAY: Final = timedelta(days=1)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, pool_size=3)
    yield database
    await database.close()


def days(first: datetime, count: int) -> list[str]:
    return [f"{first + n * DAY:%Y%m%d}" for n in range(count)]


async def partitions_of(database: Database, table: str) -> list[str]:
    """The days of the partitions that are attached to a table."""
    async with database.reading() as connection:
        rows = await connection.execute(
            text(
                "SELECT inhrelid::regclass::text AS name FROM pg_inherits"
                " WHERE inhparent = CAST(CAST(:table AS text) AS regclass) ORDER BY 1"
            ),
            {"table": table},
        )
        return [row.name.removeprefix(f"{table}_") for row in rows]


async def ensure(database: Database, now: datetime) -> int:
    async with database.transaction() as tx:
        return await partitions.ensure(tx, now)


async def test_after_an_upgrade_there_are_partitions_from_yesterday_to_two_weeks_ahead(database: Database) -> None:
    assert "receipt_bodies" in TABLES
    today = datetime.now(UTC)
    await ensure(database, today)  # the tests' template may have been migrated before midnight

    for table in TABLES:
        found = await partitions_of(database, table)
        assert set(days(today - DAY, 16)) <= set(found)
        assert len(found) <= 17


async def test_partitions_are_made_once(database: Database) -> None:
    later = datetime(2031, 5, 20, 23, 59, 59, 999999, tzinfo=UTC)

    assert await ensure(database, later) == 16 * len(TABLES)
    assert await ensure(database, later) == 0
    assert await ensure(database, later + timedelta(microseconds=1)) == len(TABLES)
    for table in TABLES:
        assert [day for day in await partitions_of(database, table) if day.startswith("2031")] == days(
            datetime(2031, 5, 19, tzinfo=UTC), 17
        )


async def test_a_day_is_a_day_of_utc_whatever_the_clocks_zone(database: Database) -> None:
    """At half past midnight in Auckland it is still yesterday here."""
    auckland = timezone(timedelta(hours=12))
    await ensure(database, datetime(2031, 5, 21, 0, 30, tzinfo=auckland))

    found = [day for day in await partitions_of(database, TABLES[0]) if day.startswith("2031")]
    assert found == days(datetime(2031, 5, 19, tzinfo=UTC), 16)


async def test_several_who_make_partitions_at_once_make_them_once(database_url: str, database: Database) -> None:
    others = [Database(database_url, pool_size=2) for _ in range(4)]
    later = datetime(2031, 5, 20, tzinfo=UTC)
    try:
        made = await asyncio.gather(*(ensure(other, later) for other in others))
    finally:
        for other in others:
            await other.close()

    assert sorted(made) == [0, 0, 0, 16 * len(TABLES)]


async def test_a_row_lies_in_the_partition_of_its_day_to_the_microsecond(database: Database) -> None:
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    await ensure(database, midnight)
    insert = text(
        "INSERT INTO receipt_bodies (receipt_id, received_at, headers, body)"
        " VALUES (gen_random_uuid(), :at, '{}', '') RETURNING tableoid::regclass::text AS place"
    )
    async with database.transaction() as tx:
        for at, day in (
            (midnight - timedelta(microseconds=1), midnight - DAY),
            (midnight, midnight),
            (midnight + DAY - timedelta(microseconds=1), midnight),
            (midnight + 14 * DAY, midnight + 14 * DAY),
        ):
            row = (await tx.execute(insert, {"at": at})).one()
            assert row.place == f"receipt_bodies_{day:%Y%m%d}"


async def test_a_missing_partition_is_seen_and_not_filled_by_another(database: Database) -> None:
    """There is no default partition: a row of a day without one is an error."""
    with pytest.raises(DBAPIError, match="no partition of relation"):
        async with database.transaction() as tx:
            await tx.execute(
                text(
                    "INSERT INTO receipt_bodies (receipt_id, received_at, headers, body)"
                    " VALUES (gen_random_uuid(), '2040-01-01Z', '{}', '')"
                )
            )


async def test_readiness_names_a_partition_that_is_missing_today_or_in_the_next_three_days(
    serve: Callable[..., Any], simulator: RunningSimulator
) -> None:
    service = await serve(simulator, loops=False)
    for offset in range(4):
        missing = [f"{table}_{datetime.now(UTC) + offset * DAY:%Y%m%d}" for table in TABLES]
        await drop(service, missing)

        answer = await service.caller.http.get("/readyz")
        assert answer.status_code == 503
        assert answer.json() == {"status": "unavailable", "missing": [f"partitions: {name}" for name in missing]}

        assert await ensure(service.ctx.db, service.ctx.now()) == len(TABLES)
        assert (await service.caller.http.get("/readyz")).status_code == 200


async def drop(service: Service, names: list[str]) -> None:
    async with service.ctx.db.transaction() as tx:
        for name in names:
            await tx.exec_driver_sql(f"DROP TABLE {name}")


async def test_a_partition_that_is_missing_later_is_no_alarm_yet(
    serve: Callable[..., Any], simulator: RunningSimulator
) -> None:
    service = await serve(simulator, loops=False)
    await drop(service, [f"{table}_{datetime.now(UTC) + 6 * DAY:%Y%m%d}" for table in TABLES])

    assert (await service.caller.http.get("/readyz")).status_code == 200


async def test_where_nobody_makes_partitions_readiness_alarms_three_days_before_they_end(
    serve: Callable[..., Any], simulator: RunningSimulator
) -> None:
    service = await serve(simulator, loops=False)
    await ensure(service.ctx.db, service.ctx.now())
    service.ctx.clock = clock = SettableClock()

    statuses = []
    for _ in range(13):
        statuses.append((await service.caller.http.get("/readyz")).status_code)
        clock.advance(24 * 3600)

    assert statuses == [200] * 12 + [503]


async def test_a_start_makes_what_is_missing(serve: Callable[..., Any], simulator: RunningSimulator) -> None:
    first = await serve(simulator, loops=False)
    names = [f"{table}_{datetime.now(UTC) + n * DAY:%Y%m%d}" for table in TABLES for n in range(3)]
    await drop(first, names)
    assert (await first.caller.http.get("/readyz")).status_code == 503

    await serve(simulator)

    ready = await eventually(lambda: first.caller.http.get("/readyz"), lambda answer: answer.status_code == 200)
    assert ready.json()["status"] in ("ok", "degraded")
