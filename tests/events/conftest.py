"""Fixtures of tests of events: a service that does nothing by itself, and a team that listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from app.simulator.server import RunningSimulator
from tests.harness import Caller, Service
from tests.listening import team_of


@pytest.fixture
async def quiet(serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]) -> Service:
    """A service that does nothing by itself."""
    started: Service = await serve(simulate(hold=True), loops=False)
    return started


@pytest.fixture
async def subscriber(quiet: Service) -> Caller:
    """A key that may read the events of its team, which has no other."""
    return await quiet.new_caller("listeners", scopes=("subscribe",))


@pytest.fixture
async def team(quiet: Service, subscriber: Caller) -> UUID:
    """The subscriber's team."""
    return await team_of(quiet, subscriber.key_id)
