"""A week in the life of four teams, lived in a minute: real submissions through the simulator, on clocks that are moved.

What comes of it is drawn by lot from a seed, all but the times that real work takes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from app.clock import SettableClock
from app.simulator.server import RunningSimulator
from tests.harness import Caller, Service, eventually
from tests.receivers import Receiver

DAYS: Final = 7
TURNS: Final = 84
"""Every two hours something is submitted."""

LAST: Final = timedelta(minutes=45)
"""So much of the week is left for what is still under way at its end."""

MOST_AT_ONCE: Final = 10

SUBJECTS: Final = (
    "a lighthouse in a storm", "a fox asleep on a stack of letters", "the harbour at dawn, fishing boats",
    "a glass teapot on a windowsill", "an astronaut tending tomatoes", "a paper city folded by hand",
    "a red bicycle against a yellow wall", "mountains behind a railway station", "a cat who runs a bakery",
    "an old radio on a kitchen table",
)  # fmt: skip
MANNERS: Final = (
    "oil on canvas",
    "35 mm film, grain",
    "flat vector",
    "watercolour",
    "studio light",
    "isometric",
    "ink",
)
TUNES: Final = ("a slow waltz for two accordions", "warm lo-fi with vinyl crackle", "an upbeat jingle for a bakery")

ERRORS: Final = (
    "The prompt was refused by the model's safety filter",
    "The provider is overloaded, please try again later",
    "Generation timed out at the provider",
)


@dataclass(frozen=True)
class Kind:
    """One kind of job: how often it comes up, how long it takes in seconds (median), what it costs, how often it fails."""

    operation: str
    model: str
    weight: int
    seconds: float
    cost: int
    failing: float
    params: Mapping[str, Any] = field(default_factory=dict)


KINDS: Final = (
    Kind("images/generate", "flux-1.1-pro-ultra", 30, 9, 12, 0.02, {"fluxParams": {"aspect_ratio": "16:9"}}),
    Kind("images/generate", "nano-banana-pro", 22, 14, 8, 0.03),
    Kind("images/generate", "midjourney", 16, 41, 20, 0.05),
    Kind("images/generate", "gpt-image-2", 8, 26, 15, 0.04),
    Kind("videos/generate", "kling-2.6", 8, 145, 90, 0.12),
    Kind("videos/generate", "veo-3.1-fast", 6, 98, 75, 0.08),
    Kind("music/generate", "suno", 10, 62, 25, 0.03),
)
COSTS: Final = {kind.model: kind.cost for kind in KINDS}

TEAMS: Final = {"storefront": 40, "marketing": 30, "game-studio": 20, "research": 10}
"""Names of teams, and the shares of what they submit."""


@dataclass
class Week:
    """The service, the simulator and their clocks, which move together."""

    service: Service
    simulator: RunningSimulator
    clock: SettableClock
    dice: random.Random = field(default_factory=lambda: random.Random(20261128))
    callers: dict[str, Caller] = field(default_factory=dict)
    job_count: int = 0

    async def begin(self, receivers: Mapping[str, Receiver]) -> None:
        """Make the teams, and subscriptions of some of them."""
        for name in TEAMS:
            self.callers[name] = await self.service.new_caller(name, ("submit", "read", "subscribe"))
        for team, receiver in receivers.items():
            body = {
                "url": f"{receiver.url}/events",
                "types": ["job.completed", "job.failed"],
                "description": f"{team} intake",
            }
            answer = await self.callers[team].http.post("/v1/subscriptions", json=body)
            assert answer.status_code == 201, answer.text

    async def live(self) -> None:
        """Live the whole week, up to now."""
        for turn in range(TURNS):
            busy = 1.6 if 4 <= (turn % 12) <= 9 else 0.5
            await self._submit_some(min(MOST_AT_ONCE - 2, max(2, round(self.dice.gauss(7.6 * busy, 2)))))
            await self.move(timedelta(days=DAYS) / TURNS - timedelta(minutes=6))
        await self.move(-self.clock.offset - LAST)

    async def move(self, time: timedelta) -> None:
        """Move both clocks on, when no lease would be lost by it."""
        await eventually(self._fetching_count, lambda count: count == 0, seconds=30)
        seconds = max(time.total_seconds(), 0)
        self.clock.advance(seconds)
        await asyncio.to_thread(self.simulator.tell, "advance", seconds=seconds)

    async def _submit_some(self, count: int) -> None:
        kinds = self.dice.choices(KINDS, [kind.weight for kind in KINDS], k=count)
        ends: list[tuple[float, str, Kind]] = []
        for kind in kinds:
            job_id = await self.submit(kind)
            ends.append((kind.seconds * self.dice.lognormvariate(0, 0.35), job_id, kind))
        await self.taken([job_id for _, job_id, _ in ends])
        passed = 0.0
        for seconds, job_id, kind in sorted(ends, key=lambda end: end[0]):
            await self.move(timedelta(seconds=seconds - passed))
            passed = seconds
            await self._finish(job_id, kind)
        await eventually(self._open_count, lambda count: count == 0, seconds=30)

    async def submit(self, kind: Kind, **fields: Any) -> str:
        """Submit one job for a team drawn by lot."""
        team = self.dice.choices(tuple(TEAMS), tuple(TEAMS.values()))[0]
        words = f"{self.dice.choice(SUBJECTS)}, {self.dice.choice(MANNERS)}"
        prompt = self.dice.choice(TUNES) if kind.operation.startswith("music") else words
        self.job_count += 1
        body = {"model": kind.model, "prompt": prompt, **kind.params, **fields}
        body["metadata"] = {"order": f"A-{1000 + self.job_count}", "campaign": self.dice.choice(("autumn", "launch"))}
        answer = await self.callers[team].http.post(
            f"/v2/{kind.operation}", json=body, headers={"Prefer": "respond-async"}
        )
        assert answer.status_code == 202, answer.text
        return str(answer.json()["jobId"])

    async def taken(self, job_ids: list[str]) -> None:
        """Wait until the upstream has these jobs."""

        async def look() -> int:
            rows = await self.service.rows(
                "SELECT id FROM jobs WHERE id = ANY(CAST(:ids AS uuid[])) AND upstream_id IS NOT NULL", ids=job_ids
            )
            return len(rows)

        await eventually(look, lambda count: count == len(job_ids), seconds=30)

    async def _finish(self, job_id: str, kind: Kind) -> None:
        order: dict[str, Any] = {"wait": True}
        if self.dice.random() < kind.failing:
            order |= {"status": "FAILED", "error": self.dice.choice(ERRORS)}
        if self.dice.random() < 0.03:
            order |= {"announce": False}  # a webhook that is lost
        await asyncio.to_thread(self.simulator.tell, f"jobs/{job_id}/finish", **order)

    async def _fetching_count(self) -> int:
        return len(self.service.ctx.fetching)

    async def _open_count(self) -> int:
        (row,) = await self.service.rows("SELECT count(*) AS n FROM jobs WHERE completed_at IS NULL")
        if row.n:  # what was not announced is asked for, once its time has come
            await self.move(timedelta(seconds=20))
        return int(row.n)


async def leave_things_undone(week: Week) -> None:
    """The state in which an operator finds the service: running, waiting, overdue, failed, not delivered."""
    flux, video = KINDS[0], KINDS[4]
    slow = [await week.submit(video)]
    await week.taken(slow)
    await week.move(LAST)
    running = [await week.submit(kind) for kind in (flux, KINDS[1], KINDS[2], KINDS[5], KINDS[6], flux, KINDS[3])]
    await week.taken(running)
    for job_id, progress in zip(running, (25, 50, 75, 25, 50, 75, 25), strict=True):
        await asyncio.to_thread(week.simulator.tell, f"jobs/{job_id}/progress", progress=progress, wait=True)
    for kind in (flux, KINDS[2], KINDS[4], flux, KINDS[6], KINDS[1]):
        await week.submit(kind)  # the slots are taken: these wait


async def set_budgets(week: Week, admin: Caller) -> None:
    """Limits and budgets, by an admin: what the audit log then tells."""
    budgets = {"storefront": 9000, "marketing": 6000, "game-studio": 5000, "research": None}
    teams = (await admin.http.get("/v1/teams")).json()["teams"]
    for team in teams:
        if team["name"] in budgets:
            changes = {"monthlyCredits": budgets[team["name"]], "requestsPerMinute": 600}
            answer = await admin.http.patch(f"/v1/teams/{team['id']}", json=changes)
            assert answer.status_code == 200, answer.text
