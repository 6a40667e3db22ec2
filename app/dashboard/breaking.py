"""The page at `/ops/demo`, where whoever tries Framehook breaks it and sees that nothing is lost. Only the demo has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from starlette.responses import Response

from app.context import Context
from app.dashboard.visits import Visit
from app.errors import Invalid, NotFound
from app.teams.audit import note

PAGE: Final = "/ops/demo"
STORMS: Final = ("50", "200")
RECENT: Final = timedelta(seconds=10)
"""A kill is news for so long."""

TROUBLES: Final[Mapping[str, str]] = {
    "drop": "Webhooks are being dropped: jobs end by asking instead.",
    "double": "Webhooks come twice: the second one changes nothing.",
    "down": "Apiframe answers every call with an error: jobs are accepted all the same, wait, and are sent when it is back.",
    "silence": "Apiframe does not answer: what it may have received is only ever sent again under the same key.",
}
"""Troubles that last until they are ended, and what happens meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What became of the jobs of this run. `over_unheard` of those in flight are over upstream, and we do not know yet."""

    submitted: int = 0
    waiting: int = 0
    in_flight: int = 0
    over_unheard: int = 0
    completed: int = 0
    failed: int = 0
    lost: int = 0
    paid_twice: int = 0
    by_poll: int = 0
    by_webhook: int = 0
    more: bool = False  # older jobs of the run are left out


@dataclass(slots=True)
class Storm:
    """Submissions that were sent all at once, and how many of them were answered 202."""

    number: int = 0
    size: int = 0
    acknowledged: int = 0
    repeats: int = 0

    @property
    def is_under_way(self) -> bool:
        """Whether some are not acknowledged yet."""
        return self.acknowledged < self.size


@dataclass(frozen=True, slots=True)
class Process:
    """A worker that runs now."""

    pid: int
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """How things stand."""

    counts: Counts
    active: frozenset[str]
    dropped: int
    doubled: int
    storm: Storm
    processes: tuple[Process, ...]
    restarts: int
    killed_pid: int | None
    killed_at: datetime | None


class Demo(Protocol):
    """What the demo lets a visitor do."""

    async def look(self, ctx: Context) -> Scene:
        """How things stand now."""

    async def begin(self, name: str) -> None:
        """Begin one of the lasting troubles."""

    async def end(self, name: str | None = None) -> None:
        """End one of them, or with None all."""

    async def kill_worker(self) -> int | None:
        """Kill a worker with SIGKILL; its process id, None where none runs."""

    def send_storm(self, ctx: Context, size: int) -> None:
        """Submit so many generations at once. Raises Conflict while others are on their way."""


async def show_demo(visit: Visit) -> Response:
    """What is broken, and what became of the jobs of this run."""
    scene = await _demo(visit).look(visit.ctx)
    return visit.render(
        "demo.html", scene=scene, counts=scene.counts, news=_news(scene, visit.ctx.now()), storms=STORMS
    )


async def break_it(visit: Visit) -> Response:
    """Do what a button of the page says. Raises NotFound, Invalid, Conflict."""
    demo, what = _demo(visit), visit.request.path_params["what"]
    if what in TROUBLES:
        told = await _turn(demo, what, on=visit.value("turn") == "on")
    elif what == "calm":
        await demo.end()
        told = "All troubles are over."
    elif what == "kill":
        pid = await demo.kill_worker()
        told = f"Process {pid} was killed." if pid else "No worker runs just now: one is starting."
    elif what == "storm":
        told = _send_storm(visit, demo)
    else:
        raise NotFound(f"There is no page {visit.request.url.path}")
    async with visit.ctx.db.transaction() as tx:
        await note(tx, visit.caller.actor, f"demo.{what}", "demo", visit.caller.team_id, told=told)
    return visit.done(PAGE, told)


def _demo(visit: Visit) -> Demo:
    demo: Demo | None = visit.request.app.state.demo
    if demo is None:
        raise NotFound(f"There is no page {visit.request.url.path}")
    return demo


async def _turn(demo: Demo, trouble: str, *, on: bool) -> str:
    if on:
        await demo.begin(trouble)
        return TROUBLES[trouble]
    await demo.end(trouble)
    return "That trouble is over."


def _send_storm(visit: Visit, demo: Demo) -> str:
    size = visit.value("size")
    if size not in STORMS:
        raise Invalid(f"A storm has {' or '.join(STORMS)} submissions")
    demo.send_storm(visit.ctx, int(size))
    return f"{size} submissions are on their way."


def _news(scene: Scene, now: datetime) -> list[str]:
    """A sentence for each thing that is happening."""
    told = [sentence for name, sentence in TROUBLES.items() if name in scene.active]
    if scene.storm.is_under_way:
        told.append(f"A storm of {scene.storm.size}: {scene.storm.acknowledged} are acknowledged so far.")
    if scene.killed_at is not None and now - scene.killed_at < RECENT:
        told.append("A worker was killed: what it held is taken up by another as soon as its lease has ended.")
    if scene.counts.waiting or scene.counts.in_flight:
        told.append(f"{scene.counts.waiting + scene.counts.in_flight} jobs are not over yet.")
    return told or ["All is well. Break something, send a storm, and watch what is lost."]
