"""A team's own limit of jobs in flight: it holds its own jobs back and nobody else's, over any number of processes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from app.jobs import dispatch
from app.simulator.server import RunningSimulator
from tests.harness import FLUX, Service, books, tell
from tests.locks import CLAIMS, blocked, stopped_at
from tests.teams.admins import limit_team

Serve = Callable[..., Any]
Simulate = Callable[..., RunningSimulator]
LATER = {"Prefer": "respond-async"}


async def running(service: Service) -> Counter[str]:
    rows = await service.rows(
        "SELECT t.name FROM jobs JOIN teams t ON t.id = team_id"
        " WHERE ambiguous_since IS NOT NULL AND jobs.completed_at IS NULL"
    )
    return Counter(row.name for row in rows)


async def finish_one(service: Service, simulator: RunningSimulator, team: str) -> None:
    """Complete one of a team's jobs at the upstream."""
    job, *_ = await service.rows(
        "SELECT upstream_id FROM jobs JOIN teams t ON t.id = team_id"
        " WHERE t.name = :team AND upstream_id IS NOT NULL AND jobs.completed_at IS NULL",
        team=team,
    )
    await tell(simulator, f"jobs/{job.upstream_id}/finish", status="COMPLETED", wait=True)


async def test_a_team_at_its_own_limit_waits_and_the_others_take_the_slots(serve: Serve, simulate: Simulate) -> None:
    simulator = simulate(hold=True, max_concurrent_jobs=100)
    service = await serve(simulator, loops=False, max_in_flight=5)
    crowd = await service.new_caller("crowd")
    await limit_team(service, "crowd", inFlightLimit=2)
    for _ in range(6):
        await crowd.accepted(FLUX | {"priority": 100}, **LATER)
    for _ in range(6):
        await service.caller.accepted(FLUX, **LATER)

    assert await dispatch.run_once(service.ctx) == 5
    assert await running(service) == {"crowd": 2, "tests": 3}
    assert await dispatch.run_once(service.ctx) == 0

    await finish_one(service, simulator, "crowd")
    assert await dispatch.run_once(service.ctx) == 1
    assert await running(service) == {"crowd": 2, "tests": 3}
    await limit_team(service, "crowd", inFlightLimit=None)
    await finish_one(service, simulator, "tests")
    assert await dispatch.run_once(service.ctx) == 1
    assert await running(service) == {"crowd": 3, "tests": 2}


async def test_jobs_of_unknown_fate_count_against_the_teams_limit(serve: Serve, simulate: Simulate) -> None:
    simulator = simulate(hold=True)
    service = await serve(simulator, loops=False)
    crowd = await service.new_caller("crowd")
    await limit_team(service, "crowd", inFlightLimit=1)
    await tell(simulator, "faults", accept_then_cut=1)
    await crowd.accepted(FLUX)
    waiting = await crowd.accepted(FLUX)

    await dispatch.run_once(service.ctx)

    assert (await service.job(waiting)).ambiguous_since is None
    assert await running(service) == {"crowd": 1}


@pytest.mark.parametrize("rival", ["inline", "background"])
async def test_claims_of_two_processes_at_once_do_not_exceed_the_teams_limit(
    serve: Serve, simulate: Simulate, rival: str
) -> None:
    simulator = simulate(hold=True, max_concurrent_jobs=100)
    one, other = [await serve(simulator, loops=False, max_in_flight=10) for _ in range(2)]
    crowd, also = await one.new_caller("crowd"), await other.new_caller("crowd")
    await limit_team(one, "crowd", inFlightLimit=2)
    for _ in range(2):
        await crowd.accepted(FLUX, **LATER)

    async with stopped_at(one, CLAIMS):
        claiming = asyncio.create_task(dispatch.run_once(one.ctx))
        await blocked(one, 1)
        late: asyncio.Task[Any]
        if rival == "inline":
            late = asyncio.create_task(also.accepted(FLUX))
        else:
            await also.accepted(FLUX, **LATER)
            late = asyncio.create_task(dispatch.run_once(other.ctx))
        await blocked(one, 2)
    await asyncio.gather(claiming, late)

    assert await running(one) == {"crowd": 2}
    assert (await books(simulator))["counters"]["accepted"] == 2
