"""Break it: a page of the demo alone, whose buttons break the world around the service and whose figures are counted."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from typing import Any

import pytest

from app.dashboard.breaking import TROUBLES
from app.demo.troubles import Troubles
from app.demo.workers import Workers
from app.simulator.server import RunningSimulator
from tests.dashboard.operators import Operator
from tests.harness import Service, books, eventually
from tests.locks import ACCEPTANCES, stopped_at


@pytest.fixture
async def service(serve: Callable[..., Any], simulator: RunningSimulator) -> Service:
    """A service with its loops that asks after jobs at once; its demo has no worker processes."""
    started: Service = await serve(simulator, reconcile_after_seconds=0.3)
    troubles = Troubles(simulator, Workers(started.ctx.settings), started.url)
    troubles.key = started.caller.key
    started.server.config.app.state.demo = troubles  # type: ignore[union-attr]  # it is the application
    return started


def figures(page: str) -> dict[str, str]:
    """The figures of a page by their names."""
    found = re.findall(r'class="label">([^<]+)</div>\s*<div class="value">([^<]*)<', page)
    return {name: value.strip() for name, value in found}


async def all_completed(operator: Operator) -> str:
    """The page, once it tells that all jobs of a storm are completed."""
    return await eventually(
        lambda: operator.read("/ops/demo"), lambda page: figures(page)["Completed"] == "50", seconds=200
    )


async def test_without_a_demo_there_is_no_such_page(service: Service, operator: Operator) -> None:
    service.server.config.app.state.demo = None  # type: ignore[union-attr]  # it is the application
    assert "/ops/demo" not in await operator.read("/ops/audit")
    await operator.read("/ops/demo", status=404)
    for what in (*TROUBLES, "calm", "kill", "storm"):
        assert (await operator.act(f"/ops/demo/{what}", size="50", turn="on")).status_code == 404


async def test_a_storm_with_webhooks_dropped_and_doubled_ends_well(
    service: Service, operator: Operator, simulator: RunningSimulator
) -> None:
    assert 'href="/ops/demo"' in await operator.read("/ops/audit")
    calm = await operator.read("/ops/demo")
    assert "All is well." in calm
    assert figures(calm)["Submitted"] == "0"
    for what in ("drop", "double"):
        assert (await operator.act(f"/ops/demo/{what}", turn="on")).headers["Location"] == "/ops/demo"
    page = html.unescape(await operator.read("/ops/demo"))
    assert TROUBLES["drop"] in page
    assert TROUBLES["double"] in page

    async with stopped_at(service, ACCEPTANCES):
        assert (await operator.act("/ops/demo/storm", size="50")).status_code == 303
        assert (await operator.act("/ops/demo/storm", size="50")).status_code == 409
    page = await all_completed(operator)

    seen = figures(page)
    assert (seen["Submitted"], seen["Lost"], seen["Paid twice"], seen["Failed"]) == ("50", "0", "0", "0")
    said = await books(simulator)
    assert len(said["jobs"]) == 50
    dropped, doubled = (int(seen[f"Webhooks {name}"]) for name in ("dropped", "doubled"))
    assert (dropped, doubled) == (said["counters"]["webhooks_dropped"], said["counters"]["faults"]["double"])
    assert dropped > 0
    assert doubled > 0
    (by_poll,) = await service.rows("SELECT count(*) AS n FROM jobs WHERE ended_by = 'poll'")
    assert int(seen["Ended by asking"]) == by_poll.n > 0


async def test_troubles_begin_and_end_by_their_buttons(
    service: Service, operator: Operator, simulator: RunningSimulator
) -> None:
    async def plan() -> tuple[float, str, float]:
        faults = simulator.world.config.faults
        return faults.down, faults.down_by, faults.drop

    for what, turn, expected in (
        ("down", "on", (1, "answer", 0)),
        ("silence", "on", (1, "cut", 0)),
        ("drop", "on", (1, "cut", 1)),
        ("silence", "off", (0, "answer", 1)),
        ("calm", "", (0, "answer", 0)),
    ):
        await operator.act(f"/ops/demo/{what}", turn=turn)
        assert await plan() == expected, what
    assert "No worker runs" in await _told(operator, "/ops/demo/kill")
    assert (await operator.act("/ops/demo/storm", size="51")).status_code == 400
    assert (await operator.act("/ops/demo/quake")).status_code == 404
    rows = await service.rows("SELECT action, actor FROM audit_log WHERE action LIKE 'demo.%' ORDER BY id")
    done = ["down", "silence", "drop", "silence", "calm", "kill"]
    assert [(row.action, row.actor) for row in rows] == [(f"demo.{what}", str(operator.key_id)) for what in done]


async def _told(operator: Operator, path: str) -> str:
    await operator.act(path)
    return await operator.read("/ops/demo")


async def test_a_job_that_vanishes_is_told_as_lost(service: Service, operator: Operator) -> None:
    """The figures are counted: they say so when a promise is broken."""
    await operator.act("/ops/demo/storm", size="50")
    await all_completed(operator)
    async with service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql("DELETE FROM jobs WHERE id = (SELECT max(CAST(id AS text)) FROM jobs)::uuid")
    seen = figures(await operator.read("/ops/demo"))
    assert (seen["Submitted"], seen["Lost"], seen["Completed"]) == ("50", "1", "49")
