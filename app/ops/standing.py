"""How things stand in one reading, for a page: what `status` tells, who is at work, and what of it is trouble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from app.context import Context
from app.jobs.claim import DEFAULT_CAP
from app.ops import queries
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
from app.ops.watching import LoopSeen, ProcessSeen, freshest, read_processes


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
        return [loop for _, loop in sorted(freshest(self.processes).items()) if loop.late]

    @property
    def failing_loops(self) -> dict[str, str]:
        """The loops whose last turn failed, in whichever process, and of what."""
        loops = (loop for process in self.processes for loop in process.loops)
        return {loop.name: loop.error for loop in loops if loop.failing and loop.error is not None}


async def read_standing(ctx: Context) -> Standing:
    """How things stand now. Counts stop where they say no more."""
    now = ctx.now()
    async with ctx.db.reading() as connection:
        account = await queries.find_account(connection, ctx.account)
        paused_teams = await queries.list_paused_teams(connection)
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
        processes=await read_processes(ctx),
    )
