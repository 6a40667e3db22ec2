"""Make a history of millions in an empty, migrated database: `python -m tests.scale.fill --jobs 5000000 --database URL`."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import uuid4

import asyncpg

from app import migrate, partitions
from app.db import Database, plain_url
from app.ops.histogram import BOUNDS
from tests.scale import statements

CHUNK: Final = 100_000
RECENT: Final = timedelta(days=3)
"""How far back there are events, deliveries and what else retention takes away."""

LEDGER: Final = timedelta(days=35)


async def fill(url: str, jobs: int, now: datetime, *, chunk: int = CHUNK, quiet: bool = False) -> None:
    """Make so many jobs, over the days before `now`, and all that goes with them."""
    told = _Progress(quiet=quiet)
    await _prepare(url, now)
    connection, other = await _connect(url), await _connect(url)
    try:
        await _make_teams(connection, now)
        await connection.execute(statements.PROMPTS)
        await connection.execute("CREATE UNIQUE INDEX ON scale_prompts (number)")
        await connection.execute("ANALYZE scale_prompts")
        heavy = ("jobs", "job_words", "ledger", "deliveries") if jobs > chunk else ()
        async with _without_indexes(connection, heavy, told):
            made: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
            async with asyncio.TaskGroup() as both:
                both.create_task(_make_words(other, jobs, now, made, told))
                for first in range(1, jobs + 1, chunk):
                    last = min(first + chunk - 1, jobs)
                    await connection.execute(statements.JOBS, first, last, jobs, now, timeout=None)
                    told(f"{last:,} of {jobs:,} jobs")
                    made.put_nowait((first, last))
            await connection.execute("DROP TABLE scale_prompts")
            await connection.execute("ANALYZE jobs")
            await _make_the_rest(connection, now, told)
        await connection.execute("ANALYZE")
        await connection.execute("VACUUM jobs, job_words, ledger, deliveries, files, receipts", timeout=None)
        told("analyzed")
    finally:
        await connection.close()
        await other.close()


async def _connect(url: str) -> asyncpg.Connection:
    """A connection for making much at once."""
    connection = await asyncpg.connect(plain_url(url))
    for setting in ("synchronous_commit = off", "maintenance_work_mem = '512MB'", "work_mem = '256MB'"):
        await connection.execute(f"SET {setting}")
    if await connection.fetchval("SELECT usesuper FROM pg_user WHERE usename = current_user"):
        await connection.execute("SET session_replication_role = replica")  # foreign keys hold by what is made here
    await connection.execute("SELECT setseed(0.5)")
    return connection


async def _make_words(
    connection: asyncpg.Connection, jobs: int, now: datetime, made: asyncio.Queue[tuple[int, int]], told: _Progress
) -> None:
    """The words of each part of the jobs, once that is there."""
    last = 0
    while last < jobs:
        first, last = await made.get()
        await connection.execute(statements.WORDS, first, last, jobs, now, timeout=None)
        told(f"{last:,} of {jobs:,} words")


async def _prepare(url: str, now: datetime) -> None:
    database = Database(url, pool_size=1, command_seconds=None)
    try:
        await migrate.upgrade(database)
        async with database.transaction() as tx:
            await partitions.ensure(tx, now - RECENT, days=partitions.DAYS_AHEAD + RECENT.days)
    finally:
        await database.close()


async def _make_teams(connection: asyncpg.Connection, now: datetime) -> None:
    """Teams of very different sizes, each with two keys, and a test team of the first one."""
    for number in range(statements.TEAMS):
        team_id = uuid4()
        insert = "INSERT INTO teams (id, name, created_at, test_of) VALUES ($1, $2, $3, $4)"
        await connection.execute(insert, team_id, f"scale-{number:02}", now, None)
        if number == 0:
            await connection.execute(insert, uuid4(), "tests of scale-00", now, team_id)
        for key in range(2):
            await connection.execute(
                """INSERT INTO api_keys (id, team_id, name, key_hash, prefix, scopes, created_at)
                VALUES ($1, $2, $3, uuid_send($1), 'fh_scale', '{submit,read}', $4)""",
                *(uuid4(), team_id, f"scale-{number:02}-{key}", now),
            )
    await connection.execute(statements.SUBSCRIPTIONS)


async def _make_the_rest(connection: asyncpg.Connection, now: datetime, told: _Progress) -> None:
    since = (now - RECENT).replace(hour=0, minute=0, second=0, microsecond=0)
    for name in ("EVENTS", "DELIVERIES", "ATTEMPTS", "STEPS", "RECEIPTS", "RECEIPT_BODIES", "FILES"):
        await connection.execute(getattr(statements, name), since, timeout=None)
        if name in ("EVENTS", "DELIVERIES", "RECEIPTS"):
            await connection.execute(f"ANALYZE {name.lower()}")
        told(name.lower())
    await connection.execute(statements.LEDGER, now - LEDGER, timeout=None)
    await connection.execute(statements.BALANCES, timeout=None)
    told("ledger")
    for (span, width), days in zip(statements.SPANS, (RECENT.days, 40, 40, statements.DAYS + 1), strict=True):
        begin = (now - timedelta(days=days)).replace(hour=0, minute=0, second=0, microsecond=0)
        await connection.execute(statements.tallies(span, width), begin, timeout=None)
        await connection.execute(statements.timings(span, width), begin, BOUNDS, timeout=None)
    told("tallies")
    # Readers of the log have nothing to do: what they would make of these events is there.
    for reader in ("words", "tallies", "totals"):
        await connection.execute(statements.BEGIN_READING, reader, now, now - timedelta(days=statements.DAYS))


@asynccontextmanager
async def _without_indexes(connection: asyncpg.Connection, tables: Sequence[str], told: _Progress) -> Any:
    """Make these tables' indexes anew at the end, all at once: that is much faster than keeping them, if there is much."""
    rows = await connection.fetch(
        """SELECT c.relname AS name, pg_get_indexdef(i.indexrelid) AS definition, i.indrelid::regclass AS table_name
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
        WHERE i.indrelid = ANY(SELECT unnest($1::text[])::regclass) AND NOT EXISTS (
            SELECT 1 FROM pg_constraint WHERE conindid = i.indexrelid
        )""",
        list(tables),
    )
    for row in rows:
        await connection.execute(f"DROP INDEX {row['name']}")
    yield
    for row in rows:
        await connection.execute(row["definition"], timeout=None)
        told(f"index {row['name']}")


class _Progress:
    """A line for each step, with the seconds so far."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._began = time.monotonic()

    def __call__(self, what: str) -> None:
        if not self._quiet:
            print(f"{time.monotonic() - self._began:7.1f} s  {what}", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, required=True)
    parser.add_argument("--database", required=True, help="the address of an empty database; it is migrated first")
    given = parser.parse_args()
    asyncio.run(fill(given.database, given.jobs, datetime.now(UTC)))


if __name__ == "__main__":
    main()
