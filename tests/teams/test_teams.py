"""Teams over HTTP: made, read, changed and listed by admins; read by their own keys."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from tests.harness import Caller, Service, refused
from tests.teams.admins import every_page, limit_team, team_id_of

UNLIMITED: dict[str, Any] = {
    "requestsPerMinute": None,
    "queuedLimit": None,
    "inFlightLimit": None,
    "allowedOperations": None,
    "allowedModels": None,
    "monthlyCredits": None,
    "archivedModalities": None,
    "paused": False,
    "pausedAt": None,
}
LIMITED: dict[str, Any] = {
    "requestsPerMinute": 600,
    "queuedLimit": 50,
    "inFlightLimit": 5,
    "allowedOperations": ["images/*"],
    "allowedModels": ["flux-1.1-pro-ultra", "ideogram*"],
    "monthlyCredits": 0,
    "archivedModalities": ["image"],
}


async def test_a_team_is_made_with_limits_or_without(quiet: Service, admin: Caller) -> None:
    plain = await admin.http.post("/v1/teams", json={"name": "Malerei & Co"})
    limited = await admin.http.post("/v1/teams", json={"name": "limited", "paused": True, **LIMITED})

    assert (plain.status_code, limited.status_code) == (201, 201)
    made = plain.json()
    assert made == {"id": made["id"], "name": "Malerei & Co", "createdAt": made["createdAt"], **UNLIMITED}
    assert LIMITED.items() <= limited.json().items()
    assert limited.json()["paused"] is True
    assert limited.json()["pausedAt"] is not None
    for one in (plain, limited):
        assert (await admin.http.get(f"/v1/teams/{one.json()['id']}")).json() == one.json()
    assert "name" in refused(await admin.http.post("/v1/teams", json={"name": "limited"}), 409)["error"]


async def test_limits_are_changed_one_by_one_and_taken_away_by_null(quiet: Service, admin: Caller) -> None:
    team = await limit_team(quiet, "tests", **LIMITED)
    assert LIMITED.items() <= team.items()

    changed = await limit_team(quiet, "tests", queuedLimit=7, allowedModels=[])
    assert changed == team | {"queuedLimit": 7, "allowedModels": []}
    paused = await limit_team(quiet, "tests", paused=True)
    assert (await limit_team(quiet, "tests", paused=True))["pausedAt"] == paused["pausedAt"]
    freed = await limit_team(quiet, "tests", **dict.fromkeys(LIMITED), paused=False)
    assert UNLIMITED.items() <= freed.items()
    assert await limit_team(quiet, "tests") == freed


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"requestsPerMinute": 0, "queuedLimit": -1, "inFlightLimit": 1.5}, 3),
        ({"requestsPerMinute": True, "queuedLimit": "7", "monthlyCredits": -1}, 3),
        ({"inFlightLimit": 10**12, "monthlyCredits": 2**63}, 2),
        ({"allowedOperations": "images/generate", "allowedModels": [1]}, 2),
        ({"allowedOperations": [""], "allowedModels": ["a\0"]}, 2),
        ({"archivedModalities": ["pictures"], "paused": None}, 2),
        ({"name": "another", "limit": 5}, 2),
        ({"request_tokens": 5}, 1),
    ],
)
async def test_every_fault_is_told_and_nothing_is_changed(
    quiet: Service, admin: Caller, body: dict[str, Any], fields: int
) -> None:
    path = f"/v1/teams/{await team_id_of(quiet, 'tests')}"
    before = (await admin.http.get(path)).json()

    details = refused(await admin.http.patch(path, json=body | {"queuedLimit": body.get("queuedLimit", 5)}), 400)[
        "details"
    ]

    assert len(details) == fields
    assert details.keys() <= body.keys()
    assert (await admin.http.get(path)).json() == before


@pytest.mark.parametrize("name", [None, "", " ", " x", "*", 5, "a\nb", "\0", "x" * 101, []])
async def test_a_team_needs_a_name_that_can_be_printed(quiet: Service, admin: Caller, name: Any) -> None:
    body = {} if name is None else {"name": name}

    assert set(refused(await admin.http.post("/v1/teams", json=body), 400)["details"]) == {"name"}


async def test_teams_are_listed_page_by_page(quiet: Service, admin: Caller) -> None:
    for number in range(5):
        await admin.http.post("/v1/teams", json={"name": f"team {number}"})

    for limit in (1, 2, 200):
        listed = await every_page(admin, "/v1/teams", "teams", limit=limit)
        assert [team["name"] for team in listed] == ["tests", "admin", *(f"team {number}" for number in range(5))]
        assert UNLIMITED.items() <= listed[0].items()
    for wrong in ({"limit": 0}, {"limit": 201}, {"cursor": "x"}):
        refused(await admin.http.get("/v1/teams", params=wrong), 400)


async def test_a_team_reads_its_own_and_an_operator_any_and_only_admins_change_it(
    quiet: Service, admin: Caller
) -> None:
    own, other = await team_id_of(quiet, "tests"), await team_id_of(quiet, "admin")
    operator = await quiet.new_caller("operators", ("ops",))

    for scope in ("submit", "read", "subscribe"):
        caller = await quiet.new_caller("tests", (scope,))
        assert (await caller.http.get(f"/v1/teams/{own}")).json()["name"] == "tests"
        refused(await caller.http.get(f"/v1/teams/{other}"), 404)
        refused(await caller.http.patch(f"/v1/teams/{own}", json={}), 403)
        refused(await caller.http.patch(f"/v1/teams/{other}", json={}), 404)
    assert (await operator.http.get(f"/v1/teams/{own}")).status_code == 200
    for caller in (quiet.caller, operator):
        refused(await caller.http.get("/v1/teams"), 403)
        refused(await caller.http.post("/v1/teams", json={"name": "mine"}), 403)
        refused(await caller.http.patch(f"/v1/teams/{own}", json={"queuedLimit": 5}), 403)
    for caller, path in ((admin, f"/v1/teams/{uuid4()}"), (admin, "/v1/teams/x")):
        refused(await caller.http.get(path), 404)
        refused(await caller.http.patch(path, json={"queuedLimit": 5}), 404)
