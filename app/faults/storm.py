"""Callers and kills at once, then the quiet that the comparison needs.

Kills fall due by what was acknowledged, not by the clock, so that all of them strike while there is work, on any machine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import httpx

from app.db import Database
from app.errors import StartupError
from app.faults.callers import Callers
from app.faults.ledgers import count_pending, count_unended
from app.faults.plan import FAULTS, Strike
from app.faults.processes import Fleet
from app.faults.report import Progress
from app.simulator.server import RunningSimulator

READY_SECONDS: Final = 60.0
DRAIN_SECONDS: Final = 120.0
"""After the last acknowledgement and the last kill, jobs have so long to end; whatever has not is stuck.

A lease of a submission that was cut off ends within twelve seconds and a poll follows at once; that of a delivery ends
within twenty-five. So this is many times what is needed.
"""

QUIET_SECONDS: Final = FAULTS.late_seconds + 0.5
"""No webhook for so long, and none is on its way: the late ones are in."""

_LOOK_SECONDS: Final = 0.02


@asynccontextmanager
async def supervised(fleet: Fleet) -> AsyncIterator[None]:
    """Have every process that ends by itself started again, for so long."""
    watch = asyncio.create_task(fleet.watch())
    try:
        yield
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


async def await_ready(fleet: Fleet) -> None:
    """Wait until every service is ready; raise StartupError after a minute."""
    deadline = time.monotonic() + READY_SECONDS
    async with httpx.AsyncClient(trust_env=False) as client:
        while not all([await _is_ready(client, url) for url in fleet.urls]):
            if time.monotonic() > deadline:
                raise StartupError(f"the services were not ready within {READY_SECONDS:g} s")
            await asyncio.sleep(0.1)


async def _is_ready(client: httpx.AsyncClient, url: str) -> bool:
    with suppress(httpx.TransportError):
        return (await client.get(f"{url}/readyz")).status_code == httpx.codes.OK
    return False


async def storm(callers: Callers, strikes: Sequence[Strike], fleet: Fleet, progress: Progress) -> None:
    """Submit and kill until all is acknowledged and everybody was killed, or the callers gave up."""
    async with asyncio.TaskGroup() as group:
        group.create_task(callers.run())
        group.create_task(_kill(callers, strikes, fleet, progress))


async def _kill(callers: Callers, strikes: Sequence[Strike], fleet: Fleet, progress: Progress) -> None:
    for strike in strikes:
        while len(callers.acknowledged) < strike.after:
            if callers.gave_up:
                return
            await asyncio.sleep(_LOOK_SECONDS)
        await asyncio.sleep(strike.delay_seconds)
        if (who := await fleet.strike(strike)) is not None:
            progress.killed(who)


async def drain(database: Database, simulator: RunningSimulator, progress: Progress) -> None:
    """Wait until every job has ended, here and upstream, no webhook comes any more, and all deliveries are made.

    At most `DRAIN_SECONDS`.
    """
    deadline = time.monotonic() + DRAIN_SECONDS
    sent, silent_since = -1, time.monotonic()
    while time.monotonic() < deadline:
        counters = (await asyncio.to_thread(simulator.ask, "books?part=counters"))["counters"]
        unended = await count_unended(database)
        progress.draining(unended)
        if counters["webhooks_sent"] != sent:
            sent, silent_since = counters["webhooks_sent"], time.monotonic()
        is_quiet = time.monotonic() - silent_since >= QUIET_SECONDS
        if is_quiet and not unended and not counters["in_flight_now"] and not await count_pending(database):
            return
        await asyncio.sleep(0.1)
