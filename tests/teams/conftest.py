"""Fixtures of teams: a service that sends nothing by itself, and its admin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from app.simulator.server import RunningSimulator
from tests.harness import Caller, Service
from tests.teams.admins import new_admin


@pytest.fixture
async def quiet(serve: Callable[..., Any], simulator: RunningSimulator) -> Service:
    """A service that sends nothing by itself."""
    started: Service = await serve(simulator, loops=False)
    return started


@pytest.fixture
async def admin(quiet: Service) -> Caller:
    """A caller who may do everything."""
    return await new_admin(quiet)
