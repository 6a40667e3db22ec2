"""Fixtures: a real PostgreSQL with a database for each test, a simulated Apiframe, and running services."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
import hypothesis
import pytest
import uvicorn.server

from app import embedded, migrate
from app.db import Database, plain_url
from app.simulator.config import SimulatorConfig
from app.simulator.server import RunningSimulator
from tests.databases import TEMPLATE_LOCK, Lender, with_database
from tests.harness import Service, running_service, settings_for

hypothesis.settings.register_profile(
    "unhurried",  # a machine that stands still for a while is not a failure
    hypothesis.settings.default,  # its own, and where `CI` is set one that tries the same examples in every run
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("unhurried")

TEMPLATE = "framehook_template"

SLOWEST = (
    "processes/",
    "demo/",
    "stories/test_consumers",
    "stories/test_quick_start",
    "dashboard/",
    "contract/",
    "archive/",
)
"""Tests that start commands, browsers and programs in other languages come first: none is to begin when all else is done."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slowest. Workers that are done take over what lies at the end of another's list."""

    def rank(item: pytest.Item) -> int:
        path = item.path.relative_to(Path(__file__).parent).as_posix()
        return next((rank for rank, start in enumerate(SLOWEST) if path.startswith(start)), len(SLOWEST))

    items.sort(key=rank)


@pytest.fixture(scope="session", autouse=True)
def _servers_end_at_once() -> Iterator[None]:
    """Have uvicorn look every hundredth of a second whether it is to end, and whether it has, instead of every tenth."""

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds / 10)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uvicorn.server, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": sleep}))
        yield


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[str]:
    """The server that the tests run on: `TEST_DATABASE_URL`, or an embedded one that all pytest workers share."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        asyncio.run(_make_template(plain_url(given)))
        yield plain_url(given)
        return
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "postgres"
    server = embedded.start(folder)
    try:
        asyncio.run(_forget_power_failures(plain_url(server.url)))
        asyncio.run(_make_template(plain_url(server.url)))
        yield plain_url(server.url)
    finally:
        server.close()


@pytest.fixture(scope="session")
def lender(postgres_url: str) -> Iterator[Lender]:
    """Where this worker's tests have their databases from."""
    lending = Lender(postgres_url, TEMPLATE)
    yield lending
    lending.close()


@pytest.fixture
def database_url(lender: Lender) -> Iterator[str]:
    """A migrated database of this test's own."""
    yield lender.lend()
    lender.take_back()


@pytest.fixture
def empty_database_url(postgres_url: str, lender: Lender) -> Iterator[str]:
    """A database that was never migrated."""
    name = lender.make_empty()
    yield with_database(postgres_url, name)
    lender.drop(name)


@pytest.fixture
def simulate() -> Iterator[Callable[..., RunningSimulator]]:
    """Start simulators: `simulate(hold=True)`. They end with the test.

    Fast by default, and knowing both spellings of the webhook field: a job's first submission is then the one that counts,
    whether or not the service has read the document before it.
    """
    with ExitStack() as stack:

        def start(**config: Any) -> RunningSimulator:
            usual: dict[str, Any] = {
                "queue_seconds": 0.02,
                "generate_seconds": 0.1,
                "webhook_backoff_seconds": 0.05,
                "webhook_field": "both",
            }
            return stack.enter_context(RunningSimulator(SimulatorConfig(**usual | config)))

        yield start


@pytest.fixture
def simulator(simulate: Callable[..., RunningSimulator]) -> RunningSimulator:
    """A simulator as it comes."""
    return simulate()


@pytest.fixture
async def serve(database_url: str) -> AsyncIterator[Callable[..., Any]]:
    """Start services on this test's database: `await serve(simulator, loops=False)`. They end with the test."""
    async with AsyncExitStack() as stack:

        async def start(simulator: RunningSimulator, **settings: Any) -> Service:
            return await stack.enter_async_context(running_service(settings_for(database_url, simulator, **settings)))

        yield start


@pytest.fixture
async def service(serve: Callable[..., Any], simulator: RunningSimulator) -> Service:
    """A service with all its loops, in front of the simulator."""
    started: Service = await serve(simulator)
    return started


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A folder for an embedded PostgreSQL of the test's own."""
    return tmp_path / "data"


async def _forget_power_failures(url: str) -> None:
    """Have the server wait for no disk: what a killed process has written, the kernel still has."""
    connection = await asyncpg.connect(url)
    try:
        for setting in ("fsync", "full_page_writes"):
            await connection.execute(f"ALTER SYSTEM SET {setting} = off")
        await connection.execute("SELECT pg_reload_conf()")
    finally:
        await connection.close()


async def _make_template(url: str) -> None:
    """Migrate once per server; the workers that come later find it done."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f"SELECT pg_advisory_lock({TEMPLATE_LOCK})")
        if await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", TEMPLATE) is None:
            await connection.execute(f"CREATE DATABASE {TEMPLATE}")
        database = Database(with_database(url, TEMPLATE), pool_size=2)
        try:
            await migrate.upgrade(database)
        finally:
            await database.close()
    finally:
        await connection.close()
