"""The page of what was spent, and the same as CSV; and the audit log's way from what was done to what it was done to."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from typing import Any

import pytest

from app.simulator.server import RunningSimulator
from tests.dashboard.operators import Operator
from tests.dashboard.troubles import completed
from tests.harness import Service, eventually
from tests.ops.aged import noon
from tests.teams.admins import limit_team, team_id_of


@pytest.fixture
async def service(serve: Callable[..., Any], simulator: RunningSimulator) -> Service:
    """A service with all its loops, at noon: no month ends."""
    started: Service = await serve(simulator)
    started.ctx.clock = noon()
    return started


async def test_usage_is_shown_by_what_was_asked_for_and_as_csv(service: Service, operator: Operator) -> None:
    await limit_team(service, "tests", monthlyCredits=100)
    design = await service.new_caller("design")
    for caller in (service.caller, design, design):
        await completed(caller, await caller.accepted())
    await eventually(lambda: service.rows("SELECT 1 FROM ledger WHERE kind = 'settle'"), lambda rows: len(rows) == 3)
    html = await operator.read("/ops/usage")
    assert rows_of(html) == [["flux-1.1-pro-ultra", "30", "3"]]
    assert "10 spent of 100; 90 left" in html
    assert "20 spent, no budget" in html
    assert rows_of(await operator.read("/ops/usage?group_by=team")) == [["design", "20", "2"], ["tests", "10", "1"]]
    assert rows_of(await operator.read("/ops/usage?group_by=team,model&team=tests"))[0][:2] == [
        "tests",
        "flux-1.1-pro-ultra",
    ]
    assert "Nothing was spent" in await operator.read("/ops/usage?from=2020-01-01&to=2020-02-01")
    answer = await operator.http.get("/ops/usage.csv?group_by=team")
    assert answer.headers["Content-Type"].startswith("text/csv")
    assert list(csv.reader(io.StringIO(answer.text)))[1:] == [["design", "2", "20"], ["tests", "1", "10"]]
    for query in ("group_by=key", "from=yesterday", "team=nobody", "from=2026-01-02&to=2026-01-01"):
        await operator.read(f"/ops/usage?{query}", status=400)
        assert (await operator.http.get(f"/ops/usage.csv?{query}")).status_code == 400


def rows_of(html: str) -> list[list[str]]:
    """The cells of the first table that say something."""
    body = html.partition("<tbody>")[2].partition("</tbody>")[0]
    rows = [re.findall(r"<td[^>]*>([^<]+)</td>", row) for row in body.split("</tr>")]
    return [[cell.strip() for cell in cells if cell.strip()] for cells in rows if cells]


async def test_the_audit_log_leads_to_what_was_done_to_what(
    service: Service, operator: Operator, admin: Operator
) -> None:
    team_id = await team_id_of(service, "tests")
    assert (await admin.act(f"/ops/teams/{team_id}/pause")).status_code == 303
    html = await operator.read("/ops/audit")
    links = set(re.findall(r'href="(/ops/(?:teams|keys|sessions)[^"]*)"', html.partition("<main")[2]))
    assert {f"/ops/teams/{team_id}", f"/ops/keys/{admin.key_id}", "/ops/sessions"} <= links
    for link in links:
        await operator.read(link)
    assert "?team=tests" in html
    await admin.act(f"/ops/teams/{team_id}/limits", monthlyCredits="5")
    assert "monthlyCredits none → 5" in await operator.read("/ops/audit?action=team.")
    assert "team.paused" in await operator.read("/ops/audit?team=tests")
