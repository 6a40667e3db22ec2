"""What is handed down instead of globals: settings, database, the ways out, notifier, clock, and the work in progress."""

from __future__ import annotations

import asyncio
import functools
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app import embedded, migrate
from app.apiframe.client import Answer as Answered
from app.apiframe.client import Apiframe, Upstream
from app.apiframe.errors import Refusal, Unclear
from app.apiframe.rules import Rules
from app.apiframe.signature import fingerprint
from app.batch import Batch
from app.clock import Clock, SystemClock
from app.config import Settings
from app.db import Database
from app.errors import StartupError
from app.lanes import Lane
from app.measures import Measures
from app.notify import Notifier
from app.objects import open_objects
from app.outbound.client import Outbound
from app.targets import LONGEST_SOURCE, Targets

log = structlog.get_logger()

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Result = TypeVar("Result")


@dataclass(slots=True)
class Rulebook:
    """What this process knows of the upstream's document; `jobs/documents` keeps it."""

    nudged: asyncio.Event  # it has changed, as far as anybody says
    rules: Rules | None = None
    digest: bytes | None = None
    read_at: datetime | None = None  # when any process last had it from the upstream
    looked_at: datetime | None = None  # when this one last looked into the database
    renewed_at: datetime | None = None  # when this one last had it read again for a submission, whatever came of it
    refreshed: bool = False  # whether this process has seen to it since it started
    asking: asyncio.Task[Answered | Refusal | Unclear] | None = None
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)
    renewing: asyncio.Lock = field(default_factory=asyncio.Lock)


SANDBOX: Final = "sandbox"
"""The account of what stands in the upstream's place for test keys."""

SIMULATOR_KEY: Final = "afk_simulator_key_for_tests"
"""What is sent where no key is set, which only an upstream on this machine allows."""


_MAKE_SECRET: Final = text(
    "INSERT INTO secrets (name, value, created_at) VALUES ('webhook', :value, :now) ON CONFLICT (name) DO NOTHING"
)
_GET_SECRET: Final = text("SELECT value FROM secrets WHERE name = 'webhook'")


class Context:
    """Lives as long as the process; `close()` waits for what was begun."""

    def __init__(
        self, settings: Settings, db: Database, *, clock: Clock | None = None, within: Context | None = None
    ) -> None:
        """`within`: whose database, notifier and clock this one shares; it closes with that one."""
        self.settings = settings
        self.db = db
        self.within = within
        self.clock: Clock = clock or SystemClock()
        self.measures: Measures = within.measures if within else Measures()
        self.db.waited = self.measures.pool_waited
        self.account = urlsplit(settings.apiframe_base_url).netloc
        """The upstream account's name: its address."""
        self.sandbox: Context | None = None  # where test keys lead, once it is there
        self.upstream: Upstream = Apiframe(
            settings.apiframe_base_url, timeout_seconds=settings.upstream_timeout_seconds
        )
        self.targets = Targets(settings.allowed_targets)
        self.http = Outbound(self.targets, clock=self.clock)
        sources = Targets((*settings.allowed_targets, _host(settings)), longest_url=LONGEST_SOURCE)
        self.sources = Outbound(sources, clock=self.clock)  # where result files are fetched
        self.objects = open_objects(settings)  # where result files are kept; None: nowhere
        self.notify: Notifier = within.notify if within else Notifier(db.connect_directly)
        self.closing: asyncio.Event = within.closing if within else asyncio.Event()
        self._listening = ExitStack()
        self.rulebook: Rulebook = within.rulebook if within else self._open_rulebook()
        self._batches: dict[Callable[..., Any], Batch[Any, Any]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._webhook_secrets: tuple[bytes, ...] = ()
        self.introduction: asyncio.Task[bool] | None = None  # asking how the upstream spells what we are to send
        self.introductions_failed = 0
        self.failures: Counter[str] = Counter()  # submissions in a row without a clear answer, by upstream key
        self.hanging: set[str] = set()  # targets whose last delivery got no answer in time
        self.lanes = {retrying: Lane(retrying=retrying, hanging=self.hanging) for retrying in (False, True)}
        self.fetching: dict[
            str, UUID | None
        ] = {}  # result files that are being fetched, by their objects, and their jobs
        self.condemned_after = UUID(int=0)  # the deleted file whose objects were the last to be removed, or tried to
        self.looking = asyncio.Semaphore(1)  # pictures are looked at one after another

    def _open_rulebook(self) -> Rulebook:
        return Rulebook(self._listening.enter_context(self.notify.listening("catalog")))

    def now(self) -> datetime:
        """The time by the clock that was handed in."""
        return self.within.now() if self.within else self.clock.now()

    @property
    def archived(self) -> tuple[str, ...]:
        """The results of which modalities are kept, unless a team wants it otherwise."""
        return self.settings.archive_modalities if self.objects is not None else ()

    def at(self, account: str) -> Context:
        """The context whose upstream has this account: the sandbox, or else this one."""
        return self.sandbox if self.sandbox is not None and account == SANDBOX else self

    @property
    def upstream_key(self) -> str:
        """The key that new jobs are sent with."""
        key = self.settings.apiframe_api_key
        return key.get_secret_value() if key else SIMULATOR_KEY

    @functools.cached_property
    def upstream_keys(self) -> dict[str, str]:
        """Every key that may still be used, by its fingerprint; the current one first."""
        previous = [key.get_secret_value() for key in self.settings.apiframe_previous_api_keys]
        return {fingerprint(key): key for key in (self.upstream_key, *previous)}

    async def batched(
        self,
        apply: Callable[[Context, AsyncConnection, Sequence[Item]], Awaitable[Sequence[Answer]]],
        item: Item,
        *,
        plans_once: bool = False,
    ) -> Answer:
        """Apply one item in a transaction that it shares with whatever arrives meanwhile (see `batch`, `db`)."""
        return await self._batch(functools.partial(self.db.transaction, plans_once=plans_once), apply)(item)

    async def looked_up(
        self,
        look: Callable[[Context, AsyncConnection, Sequence[Item]], Awaitable[Sequence[Answer]]],
        item: Item,
    ) -> Answer:
        """Look one item up, by a statement that it shares with whatever is asked for meanwhile."""
        return await self._batch(self.db.reading, look)(item)

    def _batch(
        self,
        begin: Callable[[], AbstractAsyncContextManager[AsyncConnection]],
        apply: Callable[[Context, AsyncConnection, Sequence[Item]], Awaitable[Sequence[Answer]]],
    ) -> Batch[Item, Answer]:
        batch: Batch[Item, Answer] | None = self._batches.get(apply)
        if batch is None:
            name = f"{apply.__module__.rpartition('.')[2]}.{apply.__name__}"
            sizes = self.measures.batch_sizes(name)
            batch = self._batches[apply] = Batch(begin, functools.partial(apply, self), note_size=sizes)
        return batch

    def start(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Begin work that nobody's leaving may cancel; `close()` waits for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._note_end)
        return task

    def _note_end(self, task: asyncio.Task[Any]) -> None:
        """Whoever awaited this work may be gone: what went wrong is told here once, in any case."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("work.failed", error=f"{type(error).__name__}: {error}"[:500])

    async def webhook_secrets(self) -> tuple[bytes, ...]:
        """What webhook URLs may be signed with, the one for new URLs first: as it is set, else the database's own.

        The database's own is good for ever, so that setting one leaves the URLs of jobs under way valid.
        """
        if not self._webhook_secrets:
            current, previous = self.settings.secret_key, self.settings.previous_secret_key
            own = await self._own_secret()
            given = [secret.get_secret_value().encode() for secret in (current, previous) if secret is not None]
            self._webhook_secrets = (*given, own) if current is not None else (own, *given)
        return self._webhook_secrets

    async def _own_secret(self) -> bytes:
        parameters = {"value": secrets.token_bytes(32), "now": self.now()}
        async with self.db.transaction() as tx:
            await tx.execute(_MAKE_SECRET, parameters)
            return bytes((await tx.execute(_GET_SECRET)).scalar_one())

    def begin_closing(self) -> None:
        """Answer those who wait as soon as possible: this process is about to stop."""
        self.closing.set()
        self.notify.wake_everyone()

    async def finish(self) -> None:
        """Wait for what was begun, and have those answered who wait: this process is about to stop."""
        self.begin_closing()
        if self.sandbox is not None:
            await self.sandbox.finish()
        while self._tasks:
            await asyncio.wait(self._tasks)
        for batch in self._batches.values():
            await batch.close()

    async def close(self) -> None:
        """Finish what was begun, then let go of the connections."""
        await self.finish()
        if self.sandbox is not None:
            await self.sandbox.close()
        await self.http.close()
        await self.sources.close()
        await self.upstream.close()
        self._listening.close()
        if self.within is None:
            await self.db.close()


def _host(settings: Settings) -> str:
    """The upstream's own host, from which files may come though it be private: a simulator's are."""
    return urlsplit(settings.apiframe_base_url).hostname or ""


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[Database]:
    """The database that the settings name, or the embedded one, started if need be and held for so long."""
    if settings.database_url is not None:
        database = Database(
            settings.database_url, direct_url=settings.direct_database_url, pool_size=settings.pool_size
        )
        try:
            yield database
        finally:
            await database.close()
        return
    starting = asyncio.get_running_loop().run_in_executor(None, embedded.start, settings.data_dir)
    try:
        server = await asyncio.shield(starting)
    except asyncio.CancelledError:
        # The thread starts the server all the same, and would hold it until the process ends.
        with suppress(StartupError):
            await asyncio.to_thread((await starting).close)
        raise
    database = Database(server.url, pool_size=settings.pool_size)
    try:
        yield database
    finally:
        try:
            await database.close()
        finally:
            await asyncio.to_thread(server.close)


@asynccontextmanager
async def open_context(settings: Settings, *, clock: Clock | None = None) -> AsyncIterator[Context]:
    """Everything a process needs, for so long; on the way out, what was begun is finished first.

    An embedded database is brought to this version's schema; to another one that is done on request only.
    """
    async with open_database(settings) as database:
        if settings.database_url is None:
            await migrate.upgrade(database)
        context = Context(settings, database, clock=clock)
        try:
            yield context
        finally:
            await context.close()
