"""What a visitor may do to the demo, and what is to be seen of it. The service itself knows nothing of any of this."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import httpx

from app.clock import first_id, new_id
from app.context import Context
from app.dashboard.breaking import Process, Scene, Storm
from app.demo.counting import Ours, count, theirs_of
from app.demo.queries import list_jobs
from app.demo.workers import Workers
from app.errors import Conflict
from app.simulator.server import RunningSimulator

MOST_JOBS: Final = 5_000
"""So many of a run's jobs are compared, the newest."""

CALLERS: Final = 8
AGAIN_SECONDS: Final = 0.2
MODEL: Final = "flux-1.1-pro-ultra"

FAULTS: Final[dict[str, dict[str, Any]]] = {
    "drop": {"drop": 1.0},
    "double": {"double": 1.0},
    "down": {"down": 1.0, "down_by": "answer"},
    "silence": {"down": 1.0, "down_by": "cut"},
}
"""Troubles that last until they are ended, in the simulator's words."""


class Troubles:
    """The demo's simulator and workers, in a visitor's hands. Submissions go through the service's own door."""

    def __init__(self, simulator: RunningSimulator, workers: Workers, address: str) -> None:
        self.key: str | None = None  # that storms submit with, once it is made
        self._simulator = simulator
        self._workers = workers
        self._address = address
        self._first = first_id(datetime.now(UTC))
        self._active: set[str] = set()
        self._acknowledged: set[UUID] = set()
        self._storm = Storm()

    async def look(self, ctx: Context) -> Scene:
        """How things stand now."""
        acknowledged = frozenset(self._acknowledged)
        async with ctx.db.reading() as connection:
            rows = await list_jobs(connection, ctx.account, first=self._first, limit=MOST_JOBS + 1)
        books = await asyncio.to_thread(self._simulator.ask, "books?part=jobs")
        counters = (await asyncio.to_thread(self._simulator.ask, "books?part=counters"))["counters"]
        ours = [Ours(**row._mapping) for row in rows[:MOST_JOBS]]
        kill = self._workers.last_kill
        return Scene(
            counts=count(ours, theirs_of(books), acknowledged, more=len(rows) > MOST_JOBS),
            active=frozenset(self._active),
            dropped=counters["webhooks_dropped"],
            doubled=counters["faults"].get("double", 0),
            storm=self._storm,
            processes=tuple(Process(pid, since) for pid, since in self._workers.alive),
            restarts=self._workers.restart_count,
            killed_pid=kill.pid if kill else None,
            killed_at=kill.at if kill else None,
        )

    async def begin(self, name: str) -> None:
        """Begin a trouble; down and silent are two ways of one."""
        self._active -= {"down", "silence"} if name in ("down", "silence") else set()
        self._active.add(name)
        await self._apply()

    async def end(self, name: str | None = None) -> None:
        """End a trouble, or with None all of them."""
        self._active = self._active - {name} if name else set()
        await self._apply()

    async def _apply(self) -> None:
        faults = {name: value for trouble in sorted(self._active) for name, value in FAULTS[trouble].items()}
        if self._active >= {"drop", "double"}:
            faults["drop"] = 0.5  # of all dropped ones none would be left to double
        await asyncio.to_thread(lambda: self._simulator.tell("faults", replace=True, **faults))

    async def kill_worker(self) -> int | None:
        """Kill a worker and return its process id; None where none runs just now."""
        return self._workers.kill_oldest()

    def send_storm(self, ctx: Context, size: int) -> None:
        """Submit so many generations at once, in the background. Raises Conflict while an earlier storm is under way."""
        if self.key is None or self._storm.is_under_way:
            raise Conflict("One storm at a time: wait until this one is acknowledged")
        self._storm = Storm(number=self._storm.number + 1, size=size)
        ctx.start(self._submit_all(ctx, self._storm, self.key))

    async def _submit_all(self, ctx: Context, storm: Storm, key: str) -> None:
        waiting = deque(range(1, storm.size + 1))
        # Certificates are read once: there is no TLS to this machine, and httpx would do so for every client.
        tls = ssl.create_default_context()
        headers = {"X-API-Key": key, "Prefer": "respond-async"}
        async with httpx.AsyncClient(
            base_url=self._address, headers=headers, trust_env=False, verify=tls, timeout=15
        ) as client:

            async def call() -> None:
                while waiting and not ctx.closing.is_set():
                    await self._submit(ctx, client, storm, waiting.popleft())

            await asyncio.gather(*(call() for _ in range(CALLERS)))

    async def _submit(self, ctx: Context, client: httpx.AsyncClient, storm: Storm, place: int) -> None:
        """Submit one generation, again under its Idempotency-Key until it is acknowledged."""
        body = {"model": MODEL, "prompt": f"a lighthouse in storm {storm.number}, picture {place} of {storm.size}"}
        headers = {"Idempotency-Key": str(new_id())}
        while not ctx.closing.is_set():
            try:
                answer = await client.post("/v2/images/generate", json=body, headers=headers)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code == httpx.codes.ACCEPTED:
                self._acknowledged.add(UUID(answer.json()["jobId"]))
                storm.acknowledged += 1
                return
            storm.repeats += 1
            await asyncio.sleep(AGAIN_SECONDS)
