"""Sessions and limits of signing in are forgotten a day after their end, and not before."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from app.clock import SettableClock
from app.dashboard.sessions import IDLE
from app.dashboard.stale import prune_once
from app.simulator.server import RunningSimulator
from tests.dashboard.operators import sign_in
from tests.harness import Service


async def test_sessions_are_forgotten_a_day_after_their_end(
    serve: Callable[..., Any], simulator: RunningSimulator
) -> None:
    quiet: Service = await serve(simulator, loops=False)
    clock = quiet.ctx.clock = SettableClock()
    await sign_in(quiet.clients, quiet)
    await quiet.caller.http.post("/ops/sign-in", data={"key": "fh_live_nobodys"})
    clock.advance((IDLE + timedelta(hours=23)).total_seconds())
    operator = await sign_in(quiet.clients, quiet, team="others")
    assert await prune_once(quiet.ctx) == 0
    clock.advance(timedelta(hours=25).total_seconds())
    assert await prune_once(quiet.ctx) == 1
    (left,) = await quiet.rows("SELECT key_id FROM sessions")
    assert left.key_id == operator.key_id
