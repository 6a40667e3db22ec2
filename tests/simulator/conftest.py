"""One simulator for all tests of this folder, begun anew for each, and a client of it."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import httpx
import pytest

from app.simulator.config import SimulatorConfig
from app.simulator.server import RunningSimulator
from tests.simulator.walks import KEY, OTHER_KEY, Receiver

QUICK = SimulatorConfig(
    api_keys=(KEY, "afk_second_key", OTHER_KEY),
    inactive_keys=("afk_inactive",),
    accounts={OTHER_KEY: "other"},
    queue_seconds=0.0,
    generate_seconds=0.02,
    jitter=0.0,
    webhook_backoff_seconds=0.01,
    max_concurrent_jobs=50,
)


@pytest.fixture(scope="session")
def running() -> Iterator[RunningSimulator]:
    with RunningSimulator(QUICK) as simulator:
        yield simulator


@pytest.fixture
def simulator(running: RunningSimulator) -> RunningSimulator:
    running.tell("reset")
    return running


@pytest.fixture(scope="session")
def trust() -> ssl.SSLContext:
    """Shared, because reading the trusted certificates takes longer than most of these tests."""
    return ssl.create_default_context()


@pytest.fixture
def vendor(simulator: RunningSimulator, trust: ssl.SSLContext) -> Iterator[httpx.Client]:
    headers = {"X-API-Key": KEY}
    with httpx.Client(base_url=simulator.url, headers=headers, trust_env=False, timeout=60, verify=trust) as client:
        yield client


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.stop()
