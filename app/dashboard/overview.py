"""The first page: how things stand, and how they went lately."""

from __future__ import annotations

from starlette.responses import Response

from app.dashboard.visits import Visit


async def show_overview(visit: Visit) -> Response:
    """What is running, what is stuck and why, what failed, what it cost."""
    return visit.render("overview.html")
