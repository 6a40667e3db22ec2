"""The way to PostgreSQL: `transaction()`, where the block you see is the transaction, and `reading()` for one statement.

No block is ever open while the network to anyone else is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit
from uuid import uuid4

import asyncpg
import msgspec
from sqlalchemy import Row
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from app.errors import StartupError
from app.statements import Connection, Record, driver_of

AnyRow = Row[Any] | Record

STALLED_TRANSACTION_SECONDS: Final = 15
"""A process that stops in the middle of a transaction lets go of its locks after so long."""

CONNECT_SECONDS: Final = 10
COMMAND_SECONDS: Final = 20.0
"""A statement that takes longer is given up: a frozen database, or one behind a cut network, says nothing at all."""

POOL_WAIT_SECONDS: Final = 10

_OUTAGE_STATES: Final = ("08", "28", "57P", "53", "25P03", "25006", "42P01", "3F000", "3D000")
"""SQLSTATEs (by prefix, PostgreSQL manual, appendix A) that say: not now. 42P01, a missing table, is a missing migration."""

_CONFLICT_STATES: Final = ("40001", "40P01")

OUTAGES: Final = (
    *(OSError, PoolTimeout, DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError),
    asyncpg.InternalClientError,  # what a connection says that was cut in the middle of its conversation
)
"""What a broken database may raise; ask `is_outage` which of them it really is."""

_ALWAYS_OUTAGES: Final = (
    *(OSError, PoolTimeout, asyncpg.InterfaceError, asyncpg.InternalClientError),
    asyncpg.InvalidCachedStatementError,  # the schema was changed under a prepared statement, which is made anew
)


def sqlstate(error: BaseException) -> str:
    """The SQLSTATE of a database error, or an empty string."""
    return getattr(error, "sqlstate", None) or getattr(getattr(error, "orig", None), "sqlstate", None) or ""


def is_outage(error: BaseException) -> bool:
    """Whether the database is away, starting, full or not migrated, as opposed to a statement that is wrong."""
    if isinstance(error, _ALWAYS_OUTAGES):
        return True
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    return isinstance(error, DBAPIError | asyncpg.PostgresError) and sqlstate(error).startswith(_OUTAGE_STATES)


def is_conflict(error: BaseException) -> bool:
    """Whether PostgreSQL broke a deadlock or a serialization conflict at our cost: running it again is the answer."""
    return isinstance(error, DBAPIError | asyncpg.PostgresError) and sqlstate(error) in _CONFLICT_STATES


def plain_url(url: str, setting: str = "DATABASE_URL") -> str:
    """A libpq URL for asyncpg: `postgres://` and SQLAlchemy's `postgresql+asyncpg://` are accepted too."""
    parts = urlsplit(url)
    scheme = parts.scheme.split("+")[0]
    if scheme not in ("postgres", "postgresql"):
        raise StartupError(f"{setting} must be a postgresql:// address, not {parts.scheme or 'a bare name'}://")
    try:
        parts.port  # noqa: B018 - reading it is what checks it
    except ValueError:
        # The error would quote the address, and what stands for a port may be half of a password.
        raise StartupError(f"{setting} cannot be read: its port is not a number") from None
    query = [("sslmode" if name == "ssl" else name, value) for name, value in parse_qsl(parts.query)]
    return parts._replace(scheme="postgresql", query=urlencode(query)).geturl()


_PLAN_ONCE: Final = "".join(
    f"; SET LOCAL {name} = {value}"
    for name, value in (
        ("plan_cache_mode", "force_generic_plan"),
        ("jit", "off"),  # up to PostgreSQL 17 a plan that cannot do without what is off here seems worth compiling
        ("enable_seqscan", "off"),
        ("enable_hashjoin", "off"),
        ("enable_mergejoin", "off"),
    )
)
"""Row by row along an index: also by a plan that was made while the tables were empty, where another seemed as good."""


def _begin(*, plans_once: bool) -> str:
    """Begin a transaction together with what is set for it, in one round trip."""
    limit = f"SET LOCAL idle_in_transaction_session_timeout = '{STALLED_TRANSACTION_SECONDS}s'"
    return f"BEGIN; {limit}{_PLAN_ONCE if plans_once else ''}"


class _Timed:
    """Opens a connection, and tells how long that took, or that it was given up after so long."""

    __slots__ = ("_opening", "_waited")

    def __init__(
        self, opening: AbstractAsyncContextManager[AsyncConnection], waited: Callable[[float], object]
    ) -> None:
        self._opening = opening
        self._waited = waited

    async def __aenter__(self) -> AsyncConnection:
        began = time.perf_counter()
        try:
            return await self._opening.__aenter__()
        finally:
            self._waited(time.perf_counter() - began)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._opening.__aexit__(kind, error, trace)


class Database:
    """A pool of connections, and the way to a single one outside of it."""

    def __init__(
        self,
        url: str,
        *,
        direct_url: str | None = None,
        pool_size: int = 10,
        command_seconds: float | None = COMMAND_SECONDS,
    ) -> None:
        self._url = plain_url(url)
        self._command_seconds = command_seconds
        self._direct_url = plain_url(direct_url, "FRAMEHOOK_DIRECT_DATABASE_URL") if direct_url else self._url
        self.engine: AsyncEngine = create_async_engine(
            "postgresql+asyncpg://",
            isolation_level="AUTOCOMMIT",
            # Unique statement names let transaction pooling share server connections (SQLAlchemy, asyncpg dialect).
            connect_args={
                "async_creator_fn": self._connect,
                "prepared_statement_name_func": lambda: f"framehook_{uuid4().hex}",
            },
            pool_size=pool_size,
            max_overflow=0,
            hide_parameters=True,
            pool_timeout=POOL_WAIT_SECONDS,
        )
        self.waited: Callable[[float], object] = lambda _seconds: None  # is told of each wait for a connection
        # The same connections for whoever has SQLAlchemy begin and end transactions, as Alembic does.
        self.transactional: AsyncEngine = self.engine.execution_options(isolation_level="READ COMMITTED")

    async def _connect(self, **options: Any) -> asyncpg.Connection:
        return await _undisturbed(
            asyncpg.connect(
                self._url,
                timeout=CONNECT_SECONDS,
                command_timeout=self._command_seconds,
                connection_class=Connection,
                **options,
            )
        )

    async def connect_directly(self) -> asyncpg.Connection:
        """Open a connection past any pooler, for LISTEN; the caller closes it."""
        return await _undisturbed(
            asyncpg.connect(self._direct_url, timeout=CONNECT_SECONDS, command_timeout=COMMAND_SECONDS)
        )

    def direct(self) -> Database:
        """A small database on the direct address, for migrations, which may take their time; the caller closes it."""
        return Database(self._direct_url, pool_size=2, command_seconds=None)

    @asynccontextmanager
    async def transaction(self, *, plans_once: bool = False) -> AsyncIterator[AsyncConnection]:
        """Commit at the end of the block, roll back when it raises.

        `plans_once`: its statements find rows by their keys, in one way whatever the values, so that PostgreSQL is not to
        plan them anew each time, which takes longer than to run them for a few rows.
        """
        async with self.reading() as tx:
            connection = driver_of(tx)
            try:
                await connection.execute(_begin(plans_once=plans_once))
                yield tx
                if await connection.execute("COMMIT") != "COMMIT":
                    raise asyncpg.InFailedSQLTransactionError("a statement failed before, so nothing was committed")
            except BaseException:
                await _roll_back(tx, connection)
                raise

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection for single statements, each its own transaction: one round trip instead of three."""
        async with _Timed(self.engine.connect(), self.waited) as connection:
            if driver_of(connection).is_closed():
                # PostgreSQL was away while it lay in the pool.
                await connection.invalidate()
                await connection.get_raw_connection()
            yield connection

    async def close(self) -> None:
        """Close every connection of the pool, to the last though the closer is cancelled meanwhile."""
        closing = asyncio.ensure_future(self.engine.dispose())
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            await closing
            raise


def recordset(rows: Sequence[Any]) -> str:
    """Rows for `json_to_recordset`, of structs or dictionaries with the columns' names; bytes as base64.

    One parameter for all of them: the driver encodes arrays an element at a time, at several times the cost.
    """
    return msgspec.json.encode(rows).decode()


async def _roll_back(tx: AsyncConnection, connection: Connection) -> None:
    """Undo a transaction; a connection of which it is not known whether that was done is not used again."""
    done = False
    try:
        with suppress(*OUTAGES):
            await connection.execute("ROLLBACK")
            done = True
    finally:
        if not done:
            connection.terminate()
            await tx.invalidate()


async def _undisturbed(connect: Awaitable[asyncpg.Connection]) -> asyncpg.Connection:
    """Let a connection be made to its end: one that is cancelled half way would leave its socket open."""
    connecting = asyncio.ensure_future(connect)
    try:
        return await asyncio.shield(connecting)
    except asyncio.CancelledError:
        connecting.add_done_callback(_let_go)
        await asyncio.wait({connecting})  # whoever is cancelled once more leaves it to the callback
        raise


def _let_go(connecting: asyncio.Future[asyncpg.Connection]) -> None:
    """Close a connection that nobody waits for any more."""
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().terminate()
