"""What is sent to PostgreSQL, by SQLAlchemy or by the driver itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import Database
from app.statements import Connection, Record, Statement, driver_of

Note = Callable[[Connection, str, tuple[Any, ...]], None]


@contextmanager
def listening(database: Database, note: Note) -> Iterator[None]:
    """Have every statement noted before it is sent: on which connection, its text, and its parameters in order."""

    def told(connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        note(connection.connection.driver_connection, statement, tuple(parameters))

    run = Statement.fetch

    async def fetch(self: Statement, tx: AsyncConnection, parameters: Mapping[str, Any]) -> list[Record]:
        note(driver_of(tx), self.sql, tuple(parameters[name] for name in self.names))
        return await run(self, tx, parameters)

    engine = database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", told)
    try:
        with patch.object(Statement, "fetch", fetch):
            yield
    finally:
        event.remove(engine, "before_cursor_execute", told)
