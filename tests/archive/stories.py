"""What the tests of keeping files share: a service that keeps them in a place, and jobs whose results the test decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from app.simulator.server import RunningSimulator
from tests.harness import NO_TLS, HeldJob, Service, eventually, held_job, running_service, settings_for, tell
from tests.objects import Place

Simulate = Callable[..., RunningSimulator]


@dataclass(frozen=True)
class Archive:
    """A service, the simulator that it sends to, and where it keeps files."""

    service: Service
    simulator: RunningSimulator
    place: Place

    async def job(self, result: Any, **how: Any) -> str:
        """The id of a job that completes with this result, once the webhook about it was answered."""
        held = await held_job(self.service, self.simulator)
        await self.finish(held, result, **how)
        return held.id

    async def finish(self, held: HeldJob, result: Any, **how: Any) -> None:
        """Complete a job that the simulator holds."""
        await tell(self.simulator, f"jobs/{held.upstream_id}/finish", result=result, wait=True, **how)

    async def settled(self, job_id: str, *, seconds: float = 60) -> dict[str, Any]:
        """The job object, once none of its files is still to be fetched."""
        return await eventually(
            lambda: self.service.caller.read(job_id), lambda job: job["archiveStatus"] != "pending", seconds=seconds
        )

    async def kept(self, *urls: str) -> list[dict[str, Any]]:
        """What is said of the files of a job whose result has these URLs, once all of them are kept."""
        job = await self.settled(await self.job({"images": list(urls)}))
        assert job["archiveStatus"] == "stored", await self.files(job["id"])
        files: list[dict[str, Any]] = job["files"]
        return files

    async def files(self, job_id: str) -> list[Any]:
        """The rows of a job's files, in order."""
        return await self.service.rows("SELECT * FROM files WHERE job_id = :id ORDER BY position", id=job_id)

    async def hurry(self) -> None:
        """Have what waits for another attempt tried now, rather than wait for it."""
        async with self.service.ctx.db.transaction() as tx:
            await tx.exec_driver_sql("UPDATE files SET due_at = now() WHERE due_at IS NOT NULL AND lease_token IS NULL")
        self.service.ctx.notify.nudge(["archive"])

    async def get(self, path: str, **headers: str) -> httpx.Response:
        """A GET with the caller's key; header names are written with underscores."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.service.caller.http.get(path, headers=named)

    async def events(self, job_id: str, *types: str) -> list[dict[str, Any]]:
        """The events of a job that are of these types."""
        answer = await self.service.caller.http.get(f"/v1/jobs/{job_id}/events", params={"limit": 1000})
        return [event for event in answer.json()["events"] if event["type"] in types]


@asynccontextmanager
async def archiving(
    database_url: str,
    simulate: Simulate,
    place: Place,
    *,
    hold: bool = True,
    sim: dict[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[Archive]:
    """A service that keeps files in a place, in front of a simulator whose jobs end when the test says so."""
    simulator = await asyncio.to_thread(simulate, hold=hold, **sim or {})
    wanted = settings_for(database_url, simulator, archive_url=place.url, **settings)
    async with running_service(wanted) as service:
        yield Archive(service, simulator, place)


async def get_anonymously(url: str, **headers: str) -> httpx.Response:
    """A GET by somebody who has no key, as a browser that follows redirects."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with httpx.AsyncClient(trust_env=False, follow_redirects=True, timeout=30, verify=NO_TLS) as client:
        return await client.get(url, headers=named)
