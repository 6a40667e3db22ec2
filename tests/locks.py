"""PostgreSQL's locks as tests need them: transactions brought to a stand at one point, and who waits for whom."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg
from sqlalchemy import text

from app.db import plain_url
from tests.harness import Service, eventually

CLAIMS = "BEFORE UPDATE ON jobs FOR EACH ROW WHEN (NEW.lease_token IS NOT NULL)"
ACCEPTANCES = "BEFORE INSERT ON jobs FOR EACH ROW"


@asynccontextmanager
async def stopped_at(service: Service, moment: str) -> AsyncIterator[None]:
    """Hold every transaction of this database that comes to this trigger's moment; let them all go at the end."""
    wait = "BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NEW; END"
    async with service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql(f"CREATE FUNCTION wait_there() RETURNS trigger LANGUAGE plpgsql AS '{wait}'")
        await tx.exec_driver_sql(f"CREATE TRIGGER wait_there {moment} EXECUTE FUNCTION wait_there()")
    async with holding(service, "SELECT pg_advisory_xact_lock(1)"):
        yield


@asynccontextmanager
async def holding(service: Service, statement: str, *arguments: object) -> AsyncIterator[asyncpg.Connection]:
    """A transaction of the test's own that has run this statement and ends with the block, rolled back."""
    connection = await service.ctx.db.connect_directly()
    transaction = connection.transaction()
    try:
        await transaction.start()
        await connection.execute(statement, *arguments)
        yield connection
        await transaction.rollback()
    finally:
        connection.terminate()


@asynccontextmanager
async def struck_once(service: Service, moment: str, code: str) -> AsyncIterator[None]:
    """Have PostgreSQL give up one transaction at this trigger's moment, with this SQLSTATE; fail if none came by."""
    strike = f"BEGIN IF nextval('strikes') = 1 THEN RAISE 'struck' USING ERRCODE = '{code}'; END IF; RETURN NEW; END"
    async with service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql("CREATE SEQUENCE strikes")
        await tx.exec_driver_sql(f"CREATE FUNCTION strike() RETURNS trigger LANGUAGE plpgsql AS $${strike}$$")
        await tx.exec_driver_sql(f"CREATE TRIGGER strike {moment} EXECUTE FUNCTION strike()")
    yield
    assert (await service.rows("SELECT is_called FROM strikes")) == [(True,)]
    async with service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql("DROP FUNCTION strike CASCADE")
        await tx.exec_driver_sql("DROP SEQUENCE strikes")


async def order_by_place(database_url: str) -> None:
    """Have later connections read rows in the order of their places in the table, unless a statement says otherwise."""
    connection = await asyncpg.connect(plain_url(database_url))
    name = await connection.fetchval("SELECT quote_ident(current_database())")
    await connection.execute(f"ALTER DATABASE {name} SET enable_indexscan = off")
    await connection.close()


async def put_last(service: Service, job_id: str) -> None:
    """Put this job in the last place of the table, where any change of it may bring it."""
    async with service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql("CREATE TEMPORARY TABLE taken ON COMMIT DROP AS SELECT * FROM jobs")
        await tx.exec_driver_sql("DELETE FROM jobs")
        await tx.execute(text("INSERT INTO jobs SELECT * FROM taken ORDER BY id = :id"), {"id": UUID(job_id)})


async def blocked(service: Service, count: int) -> None:
    """Return when so many transactions of this database wait for a lock."""

    async def look() -> int:
        (row,) = await service.rows(
            "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return int(row.n)

    await eventually(look, lambda seen: seen == count)
