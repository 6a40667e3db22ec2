"""The page of the upstream: what holds jobs back there, and the switch that holds all of them."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from app.dashboard.visits import Visit
from app.jobs.upstream import set_paused
from app.ops.upstream import held_back_by, read_upstream

PAGE: Final = "/ops/upstream"


async def show_upstream(visit: Visit) -> Response:
    """The account, its cap, its keys, what it was learned to understand, and who is paused."""
    upstream = await read_upstream(visit.ctx)
    return visit.render("upstream.html", upstream=upstream, held_back_by=held_back_by(upstream))


async def pause(visit: Visit) -> Response:
    """Send nothing any more, for nobody. Submissions are accepted all the same, and wait."""
    visit.caller.must("admin")
    await set_paused(visit.ctx, None, paused=True, actor=visit.caller.actor)
    return visit.done(PAGE, "Dispatch is paused. Submissions are accepted, and wait.")


async def resume(visit: Visit) -> Response:
    """Let dispatch go on."""
    visit.caller.must("admin")
    await set_paused(visit.ctx, None, paused=False, actor=visit.caller.actor)
    visit.ctx.notify.nudge(["dispatch"])
    return visit.done(PAGE, "Dispatch goes on.")
