"""Where it is measured: a PostgreSQL of the run's own, a simulated upstream, a team, and jobs that wait for webhooks.

Dispatch is paused as `framehook pause` does it: what is accepted is kept, and sent by nobody meanwhile.
"""

from __future__ import annotations

import asyncio
import random
import resource
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from uuid_utils.compat import uuid7

from app import embedded
from app.apiframe.signature import fingerprint
from app.auth import Caller
from app.bench import queries
from app.bench.machine import describe
from app.config import Settings, load_settings
from app.context import Context, open_context
from app.db import Database
from app.deliveries import subscriptions
from app.faults.processes import find_postmaster
from app.jobs.upstream import set_paused
from app.simulator.config import SimulatorConfig
from app.simulator.server import RunningSimulator
from app.teams.keys import NewKey, create_key

TEAM: Final = "bench"
ENDINGS: Final = ("job.completed", "job.failed", "job.cancelled")
"""What the run's subscriber wants to be told: each webhook makes one delivery, as in the reference."""

HELD_PER_MINUTE: Final = 1
"""The rate limit by which its deliveries wait: the loops that make them run, and make one a minute."""

NOWHERE: Final = "http://127.0.0.1:9/"
"""The discard port, where nobody listens."""

UPSTREAM_KEY: Final = SimulatorConfig().api_keys[0]

CHUNK: Final = 10_000


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job that the upstream has accepted, and that its webhook will complete."""

    id: UUID
    upstream_id: str


@dataclass(frozen=True, slots=True)
class Team:
    """A team, its key, and its subscriptions."""

    key: NewKey
    subscription_ids: Sequence[UUID]

    @property
    def id(self) -> UUID:
        """The team's id."""
        return self.key.team_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Everything that is there before anything is measured."""

    folder: Path
    data_dir: Path
    socket_dir: str
    database_url: str
    settings: Settings
    db: Database
    team: Team
    secret: bytes  # by which the tokens of webhook URLs are made
    machine: dict[str, Any]
    dice: random.Random

    @property
    def postmaster(self) -> int:
        """The process that all of PostgreSQL's others are children of."""
        pid = find_postmaster(self.data_dir)
        assert pid is not None, "it is held open for the whole run"
        return pid

    @property
    def sqlalchemy_url(self) -> str:
        """The database's address as SQLAlchemy's asyncpg dialect reads it."""
        return self.database_url.replace("postgresql://", "postgresql+asyncpg://", 1)

    def draw_jobs(self, count: int) -> list[Waiting]:
        """Ids for jobs: ours in the order of time, the upstream's by lot."""
        return [Waiting(uuid7(), f"{self.dice.getrandbits(128):032x}") for _ in range(count)]

    async def prepare_jobs(self, team: Team, made: Sequence[Waiting]) -> None:
        """Write jobs as they are after their submission was accepted upstream, in bulk."""
        count = len(made)
        for start in range(0, count, CHUNK):
            part = made[start : start + CHUNK]
            async with self.db.transaction() as tx:
                await queries.insert_waiting_jobs(
                    tx,
                    ids=[job.id for job in part],
                    upstream_ids=[job.upstream_id for job in part],
                    team_id=team.id,
                    key_id=team.key.id,
                    account=urlsplit(self.settings.apiframe_base_url).netloc,
                    upstream_key=fingerprint(UPSTREAM_KEY),
                )

    async def make_team(self, name: str, subscribed: Sequence[Mapping[str, Any]]) -> Team:
        """A team without limits that subscribes to this."""
        async with open_context(self.settings) as ctx:
            return await _make_team(ctx, name, subscribed)

    async def settle(self) -> None:
        """Have everything written out that was left to be, so that what is measured next does not pay for it."""
        async with self.db.reading() as connection:
            await queries.checkpoint(connection)

    async def analyze(self) -> None:
        """Have the planner know how much there is, as it would before long."""
        async with self.db.reading() as connection:
            await queries.analyze(connection)


@asynccontextmanager
async def open_stage(seed: int) -> AsyncIterator[Stage]:
    """Build all of it in a folder of its own, which is removed at the end."""
    _allow_many_connections()
    folder = Path(tempfile.mkdtemp(prefix="framehook-bench-"))
    try:
        (folder / "logs").mkdir()
        simulator = RunningSimulator(SimulatorConfig(seed=seed))
        await asyncio.to_thread(simulator.start)
        try:
            async with _open_database(folder, simulator.url, seed) as stage:
                yield stage
        finally:
            await asyncio.to_thread(simulator.stop)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def _open_database(folder: Path, upstream_url: str, seed: int) -> AsyncIterator[Stage]:
    data_dir = folder / "data"
    server = await asyncio.to_thread(embedded.start, data_dir)
    db = Database(server.url, command_seconds=None)
    try:
        settings = settings_for(upstream_url, data_dir)
        async with open_context(settings) as ctx:
            held = {"url": NOWHERE, "types": list(ENDINGS), "rateLimit": HELD_PER_MINUTE}
            team, secret = await _make_team(ctx, TEAM, [held]), (await ctx.webhook_secrets())[0]
            await set_paused(ctx, None, paused=True)
        async with db.reading() as connection:
            machine = await describe(connection, data_dir)
        yield Stage(
            folder=folder,
            data_dir=data_dir,
            database_url=server.url,
            socket_dir=parse_qs(urlsplit(server.url).query)["host"][0],
            settings=settings,
            db=db,
            team=team,
            secret=secret,
            machine=machine,
            dice=random.Random(f"upstream ids {seed}"),
        )
    finally:
        await db.close()
        await asyncio.to_thread(server.close)


def settings_for(upstream_url: str, data_dir: Path, **more: Any) -> Settings:
    """The service's settings: its defaults, but for where everything is. Nothing of the environment is in them.

    No result files are kept: there are none behind the addresses in the webhooks.
    """
    chosen: dict[str, Any] = {field: info.get_default() for field, info in Settings.model_fields.items()}
    chosen |= {
        "apiframe_base_url": upstream_url,
        "data_dir": data_dir,
        "archive_url": "off",
        "allowed_targets": ("127.0.0.0/8",),
        "log_format": "json",
    }
    return load_settings(_env_file=None, **chosen | more)


async def _make_team(ctx: Context, name: str, subscribed: Sequence[Mapping[str, Any]]) -> Team:
    async with ctx.db.transaction() as tx:
        scopes = ("submit", "read", "subscribe")
        key = await create_key(tx, team=name, scopes=scopes, now=ctx.now())
    caller = Caller(key.id, key.team_id, name, frozenset(key.scopes))
    made = [await subscriptions.create(ctx, caller, each) for each in subscribed]
    return Team(key, [UUID(str(each["id"])) for each in made])


def _allow_many_connections() -> None:
    """Let this process and those that it starts hold as many connections as the system allows."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
