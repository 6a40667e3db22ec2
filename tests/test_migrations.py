"""The migrations make what the models say, up and down and up again, and by whichever way they are run."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from app import migrate
from app.db import Database
from app.models.tables import METADATA
from app.partitions import TABLES
from app.simulator.server import RunningSimulator
from tests.harness import running_service, settings_for

ROOT: Final = Path(__file__).resolve().parents[1]


@pytest.fixture
async def empty(empty_database_url: str) -> AsyncIterator[Database]:
    database = Database(empty_database_url, pool_size=2)
    yield database
    await database.close()


def differences(connection: Connection) -> list[Any]:
    """What autogenerate would write into a new migration; daily partitions are nobody's model."""

    def is_no_partition(name: str | None, kind: str, _parents: Any) -> bool:
        return kind != "table" or not any((name or "").startswith(f"{table}_2") for table in TABLES)

    options = {"compare_type": True, "compare_server_default": True, "include_name": is_no_partition}
    found: list[Any] = compare_metadata(MigrationContext.configure(connection, opts=options), METADATA)
    return found


async def names_of(database: Database, kinds: str) -> set[str]:
    """Relations of our schema: `r` tables, `p` partitioned ones, `i` indexes, `S` sequences."""
    async with database.reading() as connection:
        rows = await connection.execute(
            text(
                "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
                " AND relkind::text = ANY(CAST(:kinds AS text[]))"
            ),
            {"kinds": list(kinds)},
        )
        return {row.relname for row in rows}


async def fingerprint(database: Database) -> list[Any]:
    """Everything that PostgreSQL knows of columns, indexes and constraints; partitions aside."""
    async with database.reading() as connection:
        rows = await connection.execute(
            text(
                """
                SELECT c.relname AS relation, 'column' AS kind, a.attname::text AS name,
                    concat(format_type(a.atttypid, a.atttypmod), pg_get_expr(d.adbin, d.adrelid), a.attnotnull,
                        a.attstattarget)
                FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
                LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
                WHERE c.relnamespace = 'public'::regnamespace AND NOT c.relispartition AND a.attnum > 0
                    AND NOT a.attisdropped
                UNION ALL
                SELECT conrelid::regclass::text, 'constraint', conname, pg_get_constraintdef(pg_constraint.oid)
                FROM pg_constraint JOIN pg_class c ON c.oid = conrelid
                WHERE c.relnamespace = 'public'::regnamespace AND NOT c.relispartition
                UNION ALL
                SELECT tablename, 'index', indexname, indexdef FROM pg_indexes JOIN pg_class c ON c.relname = indexname
                WHERE schemaname = 'public' AND NOT c.relispartition
                ORDER BY 1, 2, 3
                """
            )
        )
        return [tuple(row) for row in rows]


async def test_the_migrations_make_what_the_models_say(database_url: str) -> None:
    database = Database(database_url, pool_size=2)
    try:
        async with database.transactional.connect() as connection:
            assert await connection.run_sync(differences) == []
            await connection.exec_driver_sql("ALTER TABLE jobs DROP COLUMN progress")
            assert len(await connection.run_sync(differences)) == 1, "the comparison sees nothing"
            await connection.rollback()
    finally:
        await database.close()


async def test_up_down_and_up_again_comes_to_the_same_schema(empty: Database) -> None:
    await migrate.upgrade(empty)
    first = await fingerprint(empty)
    assert await migrate.current_revision(empty) == migrate.newest_revision()
    assert {table.name for table in METADATA.sorted_tables} <= await names_of(empty, "rp")

    await migrate.downgrade(empty, "base")
    assert await names_of(empty, "rpiS") <= {"alembic_version", "alembic_version_pkc"}
    assert await migrate.current_revision(empty) is None

    await migrate.upgrade(empty)
    assert await fingerprint(empty) == first


async def test_every_single_step_goes_down_and_up_again(empty: Database) -> None:
    revisions = [script.revision for script in ScriptDirectory.from_config(migrate.alembic_config()).walk_revisions()]

    for revision in reversed(revisions):
        await migrate.upgrade(empty, revision)
        before = await fingerprint(empty)
        await migrate.downgrade(empty, "-1")
        await migrate.upgrade(empty, revision)
        assert await fingerprint(empty) == before
        assert await migrate.current_revision(empty) == revision


async def test_an_upgrade_of_what_is_up_to_date_changes_nothing(empty: Database) -> None:
    await migrate.upgrade(empty)
    async with empty.transaction() as tx:
        await tx.execute(text("INSERT INTO teams (id, name, created_at) VALUES (gen_random_uuid(), 'kept', now())"))

    for _ in range(2):
        await migrate.upgrade(empty)

    async with empty.reading() as connection:
        assert (await connection.execute(text("SELECT name FROM teams"))).scalars().all() == ["kept"]


def in_environment(database_url: str) -> dict[str, str]:
    """This process's environment with the database set and nothing else of ours."""
    ours = ("FRAMEHOOK_", "APIFRAME_", "DATABASE_URL", "PUBLIC_BASE_URL")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | {
        "DATABASE_URL": database_url
    }


CALLERS: Final = """
import asyncio, os, sys
from app import migrate
from app.db import Database

async def upgrade():
    database = Database(sys.argv[1], pool_size=2)
    try:
        await migrate.upgrade(database)
    finally:
        await database.close()

children = []
for _ in range(4):
    child = os.fork()
    if not child:
        try:
            asyncio.run(upgrade())
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    children.append(child)
sys.exit(sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


async def test_four_processes_that_upgrade_an_empty_database_at_once_take_turns(
    empty: Database, empty_database_url: str
) -> None:
    """One import, four forks: all four connect within milliseconds of each other."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CALLERS, empty_database_url),
        cwd=ROOT,
        env=in_environment(empty_database_url),
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()

    assert process.returncode == 0, said.decode()
    assert await migrate.current_revision(empty) == migrate.newest_revision()


async def test_plain_alembic_migrates_the_database_of_the_settings(
    empty: Database, empty_database_url: str, simulator: RunningSimulator
) -> None:
    """And a service that then starts on it becomes ready by itself."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "alembic", "upgrade", "head"),
        cwd=ROOT,
        env=in_environment(empty_database_url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()

    assert process.returncode == 0, said.decode()
    assert await migrate.current_revision(empty) == migrate.newest_revision()
    async with running_service(settings_for(empty_database_url, simulator)) as service:
        job_id = await service.caller.accepted()
        assert (await service.caller.read(job_id, wait=50))["status"] == "COMPLETED"
        assert (await service.caller.http.get("/readyz")).status_code == 200


async def test_readiness_says_which_migration_is_missing(
    serve: Callable[..., Any], simulator: RunningSimulator
) -> None:
    service = await serve(simulator, loops=False)
    assert (await service.caller.http.get("/readyz")).status_code == 200

    for revision in ("0000", None):
        async with service.ctx.db.transaction() as tx:
            await tx.execute(text("DELETE FROM alembic_version"))
            if revision is not None:
                await tx.execute(text("INSERT INTO alembic_version VALUES (:revision)"), {"revision": revision})
        answer = await service.caller.http.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["status"] == "unavailable"
        (missing,) = answer.json()["missing"]
        assert missing.startswith("migrations: ")
        assert (revision or "nothing") in missing
        assert migrate.newest_revision() in missing
        assert (await service.caller.http.get("/healthz")).status_code == 200
