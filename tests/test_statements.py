"""Statements of the driver, and transactions that we begin and end ourselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import text

from app.db import OUTAGES, Database, is_conflict, is_outage, plain_url
from app.statements import Statement, driver_of

ADD = Statement("INSERT INTO secrets (name, value, created_at) VALUES (:name, :value, now())")
NAMES = Statement("SELECT name, value AS worth FROM secrets WHERE name <> :but AND name <> :but || 'x' ORDER BY name")
SLOW = Statement("SELECT pg_sleep(:seconds)")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, pool_size=1)
    yield database
    await database.close()


async def names(database: Database) -> list[str]:
    async with database.reading() as connection:
        return [row.name for row in await NAMES.fetch(connection, {"but": "webhook"})]


async def test_rows_tell_their_columns_by_name(database: Database) -> None:
    async with database.transaction() as tx:
        assert await ADD.fetch(tx, {"value": b"1", "name": "one"}) == []
        assert await ADD.fetch_one(tx, {"value": b"2", "name": "two"}) is None
        rows = await NAMES.fetch(tx, {"but": "webhook"})
        one = await NAMES.fetch_one(tx, {"but": "webhook"})
    assert [(row.name, row.worth) for row in rows] == [("one", b"1"), ("two", b"2")]
    assert one == rows[0]
    with pytest.raises(AttributeError, match="value"):
        _ = rows[0].value
    with pytest.raises(KeyError, match="but"):
        async with database.reading() as connection:
            await NAMES.fetch(connection, {})


async def test_a_statement_is_prepared_once_on_a_connection(database: Database) -> None:
    for _ in range(3):
        await names(database)
        async with database.transaction(plans_once=True) as tx:
            await NAMES.fetch(tx, {"but": "webhook"})
            told = await tx.execute(
                text("SELECT count(*) FROM pg_prepared_statements WHERE statement = :sql"), {"sql": NAMES.sql}
            )
            assert told.scalar_one() == 1


async def test_what_is_planned_once_is_not_compiled_and_ends_with_its_transaction(database: Database) -> None:
    """Up to PostgreSQL 17, a plan that has to do what is discouraged looks dear enough to be compiled each time."""

    async def settings() -> dict[str, str]:
        named = text("SELECT name, setting FROM pg_settings WHERE name IN ('jit', 'plan_cache_mode', 'enable_seqscan')")
        return {row.name: row.setting for row in await tx.execute(named)}

    async with database.transaction() as tx:
        usual = await settings()
    async with database.transaction(plans_once=True) as tx:
        within = await settings()
    async with database.transaction() as tx:
        assert await settings() == usual
    assert within == {"jit": "off", "plan_cache_mode": "force_generic_plan", "enable_seqscan": "off"} != usual


async def test_what_raises_is_undone_whoever_ran_it(database: Database) -> None:
    async def add(failures: int) -> None:
        async with database.transaction() as tx:
            await ADD.fetch(tx, {"name": "driver", "value": b""})
            await tx.execute(text("INSERT INTO secrets VALUES ('sqlalchemy', '', now())"))
            assert not failures

    with pytest.raises(AssertionError):
        await add(failures=1)
    assert await names(database) == []
    await add(failures=0)
    assert await names(database) == ["driver", "sqlalchemy"]


async def test_a_commit_that_commits_nothing_is_an_error(database: Database) -> None:
    async def swallow() -> None:
        async with database.transaction() as tx:
            await ADD.fetch(tx, {"name": "one", "value": b""})
            with pytest.raises(asyncpg.UniqueViolationError):
                await ADD.fetch(tx, {"name": "one", "value": b""})

    with pytest.raises(asyncpg.InFailedSQLTransactionError):
        await swallow()
    assert await names(database) == []


async def test_a_transaction_that_is_cancelled_leaves_its_connection_as_it_was(database: Database) -> None:
    begun = asyncio.Event()

    async def work() -> None:
        async with database.transaction() as tx:
            await ADD.fetch(tx, {"name": "one", "value": b""})
            begun.set()
            await SLOW.fetch(tx, {"seconds": 60})

    for _ in range(3):
        begun.clear()
        working = asyncio.create_task(work())
        await begun.wait()
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        async with database.reading() as connection:  # the only one there is
            assert not driver_of(connection).is_in_transaction()
        assert await names(database) == []


async def test_a_connection_that_cannot_be_rolled_back_is_not_used_again(database: Database) -> None:
    begun = asyncio.Event()

    async def work() -> None:
        async with database.transaction() as tx:
            await ADD.fetch(tx, {"name": "one", "value": b""})
            begun.set()
            await asyncio.Event().wait()

    working = asyncio.create_task(work())
    await begun.wait()
    working.cancel()
    await asyncio.sleep(0)  # it is rolling back now
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert await names(database) == []


async def kill_others(url: str) -> None:
    connection = await asyncpg.connect(plain_url(url))
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await connection.close()


async def test_connections_that_were_cut_in_the_pool_are_opened_anew(database: Database, database_url: str) -> None:
    assert await names(database) == []
    async with database.reading() as connection:
        driver = driver_of(connection)
    await kill_others(database_url)
    while not driver.is_closed():
        await asyncio.sleep(0.01)
    assert await names(database) == []
    async with database.transaction() as tx:
        await ADD.fetch(tx, {"name": "one", "value": b""})
    assert await names(database) == ["one"]


@pytest.mark.parametrize("turns", range(4))
async def test_a_connection_that_is_cut_in_the_middle_is_an_outage(
    database: Database, database_url: str, turns: int
) -> None:
    async def work() -> None:
        async with database.transaction() as tx:
            await ADD.fetch(tx, {"name": "one", "value": b""})
            await kill_others(database_url)
            for _ in range(turns):  # what the driver says of it depends on how much of the end it has read
                await asyncio.sleep(0)
            await NAMES.fetch(tx, {"but": "webhook"})

    with pytest.raises(OUTAGES) as caught:
        await work()
    assert is_outage(caught.value)
    assert await names(database) == []


async def test_a_deadlock_of_the_drivers_own_is_a_conflict(database: Database) -> None:
    assert is_conflict(asyncpg.DeadlockDetectedError("deadlock"))
    assert not is_conflict(asyncpg.UniqueViolationError("twice"))


async def test_a_changed_table_costs_one_run(database: Database) -> None:
    all_of_it = Statement("SELECT * FROM secrets WHERE name = :name")
    async with database.reading() as connection:
        assert await all_of_it.fetch(connection, {"name": "one"}) == []
        await connection.execute(text("ALTER TABLE secrets ADD COLUMN more integer"))
        try:
            with pytest.raises((asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError)) as caught:
                await all_of_it.fetch(connection, {"name": "one"})
            assert is_outage(caught.value), "it is not tried again"
            assert await all_of_it.fetch(connection, {"name": "one"}) == []
        finally:
            await connection.execute(text("ALTER TABLE secrets DROP COLUMN more"))
