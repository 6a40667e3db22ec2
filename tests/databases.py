"""Databases of tests: each test has one that is in everything like a fresh copy of the template, under a name of its own.

Making a copy costs half a second of processor time. So a worker empties its copy after a test and lends it again under
another name, as long as only rows have changed; whatever else a test has changed has the copy thrown away.
"""

from __future__ import annotations

import asyncio
import io
from uuid import uuid4

import asyncpg

LENDINGS = 50
"""How often a copy is lent: every emptying leaves dead rows in it."""

CATALOGS = {
    "pg_attribute": "attrelid",
    "pg_attrdef": "oid",
    "pg_constraint": "oid",
    "pg_event_trigger": "oid",
    "pg_extension": "oid",
    "pg_index": "indexrelid",
    "pg_inherits": "inhrelid",
    "pg_largeobject_metadata": "oid",
    "pg_namespace": "oid",
    "pg_partitioned_table": "partrelid",
    "pg_policy": "oid",
    "pg_proc": "oid",
    "pg_publication": "oid",
    "pg_rewrite": "oid",
    "pg_sequence": "seqrelid",
    "pg_statistic": "starelid",
    "pg_statistic_ext": "oid",
    "pg_trigger": "oid",
    "pg_type": "oid",
}
"""Where PostgreSQL keeps what is no row of ours, with the column that tells our objects from its own."""

RELATION = """oid, relname, relnamespace, reltype, relowner, reltablespace, reltoastrelid, relhasindex, relisshared,
relpersistence, relkind, relnatts, relchecks, relhasrules, relhastriggers, relhassubclass, relrowsecurity,
relforcerowsecurity, relispopulated, relreplident, relispartition, relacl, reloptions, relpartbound"""
"""What is not changed in pg_class by filling and emptying a table. Of a partitioned one, rows are only estimated."""

SHAPE = " UNION ALL ".join(
    (
        """SELECT (to_jsonb(d) - '{oid,datname,datfrozenxid,datminmxid}'::text[])::text
        FROM pg_database d WHERE datname = current_database()""",
        """SELECT s::text FROM pg_db_role_setting s JOIN pg_database d ON d.oid = setdatabase
        WHERE datname = current_database()""",
        f"SELECT ROW({RELATION}, CASE relkind WHEN 'p' THEN reltuples END)::text FROM pg_class WHERE oid >= 16384",
        *(f"SELECT c::text FROM {catalog} c WHERE {column} >= 16384" for catalog, column in CATALOGS.items()),
    )
)

FILLED = """
SELECT oid::regclass::text, reltuples <> -1 OR pg_relation_size(oid) > 65536 FROM pg_class
WHERE oid >= 16384 AND relkind = 'r' AND (reltuples <> -1 OR pg_relation_size(oid) > 0)
"""
"""Tables that have been written to, and whether the planner can tell: below ten pages, it guesses as of a new table."""


TEMPLATE_LOCK = 20261122
"""The key of an advisory lock: whoever connects to the template holds it, and whoever copies that shares it."""


class Lender:
    """One worker's copy of the template; used outside of any event loop, it has its own."""

    def __init__(self, server_url: str, template: str) -> None:
        self._url = server_url
        self._template = template
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._server: asyncpg.Connection | None = None
        self._name: str | None = None
        self._lendings = 0
        self._shape = ""
        self._kept: dict[str, bytes] = {}

    def lend(self) -> str:
        """The URL of a database like a fresh copy."""
        return with_database(self._url, self._runner.run(self._lend()))

    def take_back(self) -> None:
        """Empty the database that was lent, or throw it away; whoever is still connected to it is cut off."""
        self._runner.run(self._take_back())

    def make_empty(self) -> str:
        """The name of a new database without anything in it."""
        name = _new_name()
        self._runner.run(self._execute(f"CREATE DATABASE {name}"))
        return name

    def drop(self, name: str) -> None:
        """Remove a database, whoever is connected to it."""
        self._runner.run(self._execute(f"DROP DATABASE {name} WITH (FORCE)"))

    def close(self) -> None:
        """Leave nothing on the server."""
        if self._name is not None:
            self.drop(self._name)
        if self._server is not None:
            self._runner.run(self._server.close())
        self._runner.close()

    async def _lend(self) -> str:
        if self._name is None:
            self._name, self._lendings = await self._copied(), 0
            if not self._shape:
                await self._learn(self._name)
        self._lendings += 1
        return self._name

    async def _copied(self) -> str:
        """The name of a new copy of the template, made while nobody is connected to that."""
        name = _new_name()
        await self._execute(f"SELECT pg_advisory_lock_shared({TEMPLATE_LOCK})")
        try:
            await self._execute(f"CREATE DATABASE {name} TEMPLATE {self._template}")
        finally:
            await self._execute(f"SELECT pg_advisory_unlock_shared({TEMPLATE_LOCK})")
        return name

    async def _learn(self, name: str) -> None:
        connection = await asyncpg.connect(with_database(self._url, name))
        try:
            self._shape = await _shape(connection)
            for table, _ in await connection.fetch(FILLED):
                rows = io.BytesIO()
                await connection.copy_from_query(f"TABLE {table}", output=rows, format="binary")
                self._kept[table] = rows.getvalue()
        finally:
            await connection.close()

    async def _take_back(self) -> None:
        assert self._name is not None
        used, self._name = self._name, None
        renamed = await self._renamed(used) if self._lendings < LENDINGS else None
        if renamed is not None and await self._emptied(renamed):
            self._name = renamed
        else:
            await self._execute(f"DROP DATABASE {renamed or used} WITH (FORCE)")

    async def _renamed(self, used: str) -> str | None:
        """The new name of the database, under which nobody who is left over from the test finds it."""
        await self._execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            f" WHERE datname = '{used}' AND usename = current_user"
        )
        name = _new_name()
        try:
            await self._execute(f"ALTER DATABASE {used} RENAME TO {name}")
        except asyncpg.ObjectInUseError:
            return None
        return name

    async def _emptied(self, name: str) -> bool:
        """Whether the database is as it was when it was made: False when more than rows has changed."""
        try:
            connection = await asyncpg.connect(with_database(self._url, name))
        except asyncpg.ObjectNotInPrerequisiteStateError:  # it was told to take no connections
            return False
        try:
            if await _shape(connection) != self._shape:
                return False
            filled = await connection.fetch(FILLED)
            # Without the checks of foreign keys, whatever the order; nothing refers to what is gone, as all goes.
            await connection.execute("SET session_replication_role = replica")
            for table, noticeable in filled:
                await connection.execute(f"TRUNCATE {table} CASCADE" if noticeable else f"DELETE FROM {table}")
            await connection.execute("SELECT setval(seqrelid, seqstart, false) FROM pg_sequence")
            for table, rows in self._kept.items():
                await connection.copy_to_table(table, source=io.BytesIO(rows), format="binary")
            await connection.execute("SELECT pg_stat_reset()")
        except asyncpg.InsufficientPrivilegeError:
            return False
        finally:
            await connection.close()
        return True

    async def _execute(self, statement: str) -> None:
        if self._server is None or self._server.is_closed():
            self._server = await asyncpg.connect(self._url)
        await self._server.execute(statement)


def with_database(url: str, name: str) -> str:
    """The same server, another database: the path is the only part of the URL that may hold a slash before the query."""
    head, question, query = url.partition("?")
    return f"{head.rsplit('/', 1)[0]}/{name}{question}{query}"


async def _shape(connection: asyncpg.Connection) -> str:
    shape: str = await connection.fetchval(f"SELECT md5(string_agg(said, '' ORDER BY said)) FROM ({SHAPE}) _(said)")
    return shape


def _new_name() -> str:
    return f"test_{uuid4().hex[:16]}"
