"""Statements that the driver runs itself: what is asked thousands of times a second, or while somebody waits.

SQLAlchemy keeps the connections and compiles each statement once. To run one through it costs several times what the
driver takes, and most of what a request costs besides PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, cast
from uuid import uuid4

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement
from sqlalchemy import text
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection

_DIALECT: Final = PGDialect_asyncpg()  # type: ignore[no-untyped-call]


class Record(asyncpg.Record):
    """A row that tells its columns by name, as SQLAlchemy's do: each statement has a kind of its own."""

    __slots__ = ()

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


def _kind_of(prepared: PreparedStatement) -> type[Record]:
    """Rows with the columns of a statement, which they look up by place."""
    columns = {column.name: property(itemgetter(place)) for place, column in enumerate(prepared.get_attributes())}
    return type("Record", (Record,), {"__slots__": (), **columns})


class Connection(asyncpg.Connection):
    """Keeps the statements that were prepared on it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.prepared: dict[Statement, PreparedStatement] = {}


class Statement:
    """SQL with `:names`, as for SQLAlchemy's `text`. Its parameters are what PostgreSQL takes them for."""

    def __init__(self, sql: str) -> None:
        compiled = text(sql).compile(dialect=_DIALECT)
        self.sql = str(compiled)
        self.names: tuple[str, ...] = tuple(compiled.positiontup or ())
        self._kind: type[Record] | None = None  # as soon as somebody has asked PostgreSQL for the columns

    async def fetch_one(self, tx: AsyncConnection, parameters: Mapping[str, Any]) -> Record | None:
        """Run it and return its only row, None where there is none."""
        rows = await self.fetch(tx, parameters)
        return rows[0] if rows else None

    async def fetch(self, tx: AsyncConnection, parameters: Mapping[str, Any]) -> list[Record]:
        """Run it and return its rows. Raises what asyncpg raises."""
        connection = driver_of(tx)
        prepared = connection.prepared.get(self)
        if prepared is None:
            prepared = connection.prepared[self] = await self._prepare(connection)
        try:
            return cast(list[Record], await prepared.fetch(*[parameters[name] for name in self.names]))
        except (asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError):
            # A migration changed what it is about. The next run prepares it anew.
            connection.prepared.clear()
            self._kind = None
            raise

    async def _prepare(self, connection: Connection) -> PreparedStatement:
        # Unique names let transaction pooling share server connections.
        name = f"framehook_{uuid4().hex}"
        if self._kind is None:
            self._kind = _kind_of(await connection.prepare(self.sql, name=f"{name}_columns"))
        return await connection.prepare(self.sql, name=name, record_class=self._kind)


def driver_of(tx: AsyncConnection) -> Connection:
    """The driver's connection behind SQLAlchemy's."""
    sync = tx.sync_connection
    connection = sync.connection.driver_connection if sync is not None else None
    assert isinstance(connection, Connection)
    return connection
