"""No page of the dashboard, and no list of jobs by whatever filter, reads a big table from one end to the other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any, Final

import pytest

from app.simulator.server import RunningSimulator
from tests.dashboard.operators import sign_in
from tests.harness import Service
from tests.scale.fill import fill
from tests.scale.pages import list_addresses, visit
from tests.scale.plans import Recorder, find_scans

JOBS: Final = 20_000

ALLOWED: Final[dict[str, str]] = {}
"""Scans that are known and meant, by a part of what is told of them, and why."""


@pytest.fixture
async def filled(
    serve: Callable[..., Any], simulator: RunningSimulator, database_url: str
) -> AsyncIterator[tuple[Service, Recorder]]:
    """A service on a history, and all that it sent while every page and list was looked at."""
    await fill(database_url, JOBS, datetime.now(UTC), quiet=True)
    service: Service = await serve(simulator, loops=False)
    recorder = Recorder()
    async with AsyncExitStack() as stack:
        operator = await sign_in(stack, service, scopes=("ops", "admin", "read"))
        addresses = await list_addresses(service, every_scope=False)
        with recorder.listening(service.ctx.db):
            for _, address, _ in addresses:
                await visit(operator, address, 1)
        yield service, recorder


async def scans(service: Service, recorder: Recorder) -> dict[str, str]:
    """What would read a big table whole, and the statement that would."""
    found = {}
    async with service.ctx.db.transaction() as tx:
        for statement, parameters in recorder.sent.items():
            for scan in await find_scans(tx, statement, parameters):
                if not any(part in scan for part in ALLOWED):
                    found[scan] = statement
    return found


@pytest.mark.timeout(900)
async def test_every_page_and_every_filter_is_answered_by_indexes(filled: tuple[Service, Recorder]) -> None:
    """And the test would tell: without an index, something is such a scan."""
    service, recorder = filled
    assert len(recorder.sent) > 30
    found = await scans(service, recorder)
    assert not found, "\n\n".join(f"{scan}\n{statement}" for scan, statement in found.items())

    for index, table in (("ix_jobs_team_history", "jobs"), ("ix_job_words_words", "job_words")):
        async with service.ctx.db.transaction() as tx:
            await tx.exec_driver_sql(f"DROP INDEX {index}")
        assert any(f" {table}" in scan for scan in await scans(service, recorder)), f"nobody misses {index}"
