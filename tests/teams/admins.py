"""What the tests of teams share: an admin, and teams with limits."""

from __future__ import annotations

from typing import Any

import httpx

from tests.harness import Caller, Service


async def new_admin(service: Service) -> Caller:
    """A caller who may do everything."""
    return await service.new_caller("admin", ("admin",))


async def team_id_of(service: Service, name: str) -> str:
    """The id of the team of this name."""
    (row,) = await service.rows("SELECT id FROM teams WHERE name = :name", name=name)
    return str(row.id)


async def limit_team(service: Service, name: str, **limits: Any) -> dict[str, Any]:
    """Say what a team may do, as an admin would."""
    admin = await new_admin(service)
    answer = await admin.http.patch(f"/v1/teams/{await team_id_of(service, name)}", json=limits)
    assert answer.status_code == 200, answer.text
    team: dict[str, Any] = answer.json()
    return team


async def every_page(caller: Caller, path: str, name: str, **query: Any) -> list[dict[str, Any]]:
    """All of a list, read page by page."""
    found: list[dict[str, Any]] = []
    while True:
        answer: httpx.Response = await caller.http.get(path, params=query)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += page[name]
        assert page["hasMore"] == (page["nextCursor"] is not None)
        if not page["hasMore"]:
            return found
        query["cursor"] = page["nextCursor"]
