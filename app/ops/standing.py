"""How things stand in one reading, for a page: what `status` tells, who is at work, and what of it is trouble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from app.context import Context
from app.db import AnyRow
from app.jobs.claim import DEFAULT_CAP
from app.ops import queries, statistics_queries
from app.ops.health import TROUBLE_SHOWN
from app.ops.status import (
    Keeping,
    KeyHealth,
    Load,
    Telling,
    read_keeping,
    read_keys,
    read_load,
    read_telling,
)

ALIVE: Final = timedelta(minutes=1)
"""A process that has not told of itself for so long is taken for gone."""

MOST_PROCESSES: Final = 50

LATE_TURNS: Final = 3
LATE_SECONDS: Final = 60.0
"""A loop is late that has had no turn for so many of its intervals and so many seconds."""


@dataclass(frozen=True, slots=True)
class LoopSeen:
    """A loop of a process: how often it takes its turn at least, how long ago the last one was, and the error of it."""

    name: str
    every_seconds: float
    seconds_ago: float
    error: str | None

    @property
    def is_late(self) -> bool:
        """Whether it should have had a turn long since."""
        return self.seconds_ago > LATE_TURNS * self.every_seconds + LATE_SECONDS


@dataclass(frozen=True, slots=True)
class ProcessSeen:
    """A process that is alive, as it tells of itself."""

    host: str
    pid: int
    role: str
    seen_at: datetime
    loops: tuple[LoopSeen, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How things stand. `trouble` is what was learned of the upstream within the last hour, and when."""

    load: Load
    telling: Telling
    keeping: Keeping
    keys: Sequence[KeyHealth]
    cap: int
    cap_lowered_to: int | None
    paused_at: datetime | None
    trouble: tuple[str, datetime] | None
    paused_teams: Sequence[str]
    poll_only: bool
    processes: Sequence[ProcessSeen]

    @property
    def runs_no_loops(self) -> bool:
        """Whether those that are at work only answer: nothing is sent, asked or delivered then."""
        return bool(self.processes) and not any(process.loops for process in self.processes)

    @property
    def late_loops(self) -> list[LoopSeen]:
        """The loops that no process has had a turn of for too long."""
        freshest: dict[str, LoopSeen] = {}
        for loop in (loop for process in self.processes for loop in process.loops):
            if loop.name not in freshest or loop.seconds_ago < freshest[loop.name].seconds_ago:
                freshest[loop.name] = loop
        return [loop for _, loop in sorted(freshest.items()) if loop.is_late]

    @property
    def failing_loops(self) -> dict[str, str]:
        """The loops whose last turn failed, in whichever process, and of what."""
        loops = (loop for process in self.processes for loop in process.loops)
        return {loop.name: loop.error for loop in loops if loop.error is not None}


async def read_standing(ctx: Context) -> Standing:
    """How things stand now. Counts stop where they say no more."""
    now = ctx.now()
    async with ctx.db.reading() as connection:
        account = await queries.find_account(connection, ctx.account)
        paused_teams = await queries.list_paused_teams(connection)
        processes = await statistics_queries.list_processes(connection, seen_within=ALIVE, limit=MOST_PROCESSES)
    lowered = account is not None and account.cap_lowered_until is not None and account.cap_lowered_until > now
    troubled = account is not None and account.trouble_at is not None and account.trouble_at > now - TROUBLE_SHOWN
    return Standing(
        load=await read_load(ctx),
        telling=await read_telling(ctx),
        keeping=await read_keeping(ctx),
        keys=await read_keys(ctx),
        cap=ctx.settings.max_in_flight or (account.cap if account else None) or DEFAULT_CAP,
        cap_lowered_to=account.cap_lowered_to if account and lowered else None,
        paused_at=account.paused_at if account else None,
        trouble=(account.trouble, account.trouble_at) if account and troubled else None,
        paused_teams=paused_teams,
        poll_only=ctx.settings.poll_only,
        processes=[_process(row) for row in processes],
    )


def _process(row: AnyRow) -> ProcessSeen:
    told: dict[str, dict[str, Any]] = msgspec.json.decode(row.loops)
    loops = tuple(_loop(name, loop, row.unseen_seconds) for name, loop in sorted(told.items()))
    return ProcessSeen(row.host, row.pid, row.role, row.seen_at, loops)


def _loop(name: str, told: dict[str, Any], unseen_seconds: float) -> LoopSeen:
    """What a process told of a loop. An error is one of the last turn only where that came after it."""
    ago, failed_ago = told.get("ago", 0.0), told.get("errorAgo")
    failed = failed_ago is not None and failed_ago <= ago
    return LoopSeen(name, told.get("every", 0.0), ago + unseen_seconds, told.get("error") if failed else None)
