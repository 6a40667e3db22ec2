"""The pages of teams, keys and sessions: operators see, admins change, and a key is seen once."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from uuid import uuid4

from tests.dashboard.operators import Operator, sign_in
from tests.dashboard.troubles import actions_of
from tests.harness import Service
from tests.teams.admins import limit_team, team_id_of

LIST = "/ops/teams"


async def test_operators_see_all_teams_and_keys_and_change_none(service: Service, operator: Operator) -> None:
    await limit_team(service, "tests", monthlyCredits=100, allowedModels=["flux-*"], paused=True)
    team_id = await team_id_of(service, "tests")
    html = await operator.read(LIST)
    for part in ("0 spent of 100; 100 left", "is-paused", "some models"):
        assert part in html, part
    assert "operators" not in (await operator.read(f"{LIST}?q=EST")).partition("<tbody>")[2]
    html = await operator.read(f"{LIST}/{team_id}")
    for part in ("flux-*", f"/ops/keys/{service.caller.key_id}", service.caller.key[:14], "Paused since"):
        assert part in html, part
    key = await operator.read(f"/ops/keys/{service.caller.key_id}")
    assert service.caller.key[:14] in key
    for page in (html, key):
        assert service.caller.key not in page
        assert 'method="post"' not in page.partition("<main")[2]
    for action in ("limits", "pause", "resume", "keys"):
        assert (await operator.act(f"{LIST}/{team_id}/{action}", name="x", scopes="read")).status_code == 403, action
    for action in ("rotate", "revoke"):
        assert (await operator.act(f"/ops/keys/{service.caller.key_id}/{action}")).status_code == 403, action
    assert (await operator.act(LIST, name="new")).status_code == 403
    assert [entry for entry in await actions_of(service) if entry[2] == str(operator.key_id)] == [
        ("session.began", (await actions_of(service, "session."))[0][1], str(operator.key_id))
    ]
    for path in (f"{LIST}/{uuid4()}", f"{LIST}/x", f"/ops/keys/{uuid4()}", "/ops/keys/x"):
        await operator.read(path, status=404)


async def test_an_admin_makes_a_team_and_says_what_it_may_do(service: Service, admin: Operator) -> None:
    made = await admin.act(LIST, name="design")
    page = made.headers["Location"]
    assert (await admin.act(LIST, name="design")).status_code == 409
    limits = {
        "requestsPerMinute": "60",
        "monthlyCredits": "1,000",
        "allowedModels": "flux-*, suno",
        "archivedModalities": "-",
    }
    assert (await admin.act(f"{page}/limits", **limits)).status_code == 303
    (team,) = await service.rows("SELECT * FROM teams WHERE name = 'design'")
    assert (team.requests_per_minute, team.monthly_credits, team.queued_limit) == (60, 1000, None)
    assert (team.allowed_models, team.archived_modalities, team.allowed_operations) == (["flux-*", "suno"], [], None)
    html = await admin.read(page)
    for name, text in (("monthlyCredits", "1000"), ("allowedModels", "flux-*, suno"), ("archivedModalities", "-")):
        assert f'name="{name}" value="{text}"' in html
    wrong = await admin.act(f"{page}/limits", queuedLimit="many", archivedModalities="smells")
    assert wrong.status_code == 400
    assert all(f"<b>{name}</b>" in wrong.text for name in ("queuedLimit", "archivedModalities"))
    for action, is_paused in (("pause", True), ("resume", False)):
        assert (await admin.act(f"{page}/{action}")).headers["Location"] == page
        assert ("Paused since" in await admin.read(page)) == is_paused
    assert [entry[0] for entry in await actions_of(service, "team.")] == [
        "team.created",
        "team.changed",
        "team.paused",
        "team.resumed",
    ]


async def test_a_key_is_seen_once_and_left_nowhere(service: Service, admin: Operator) -> None:
    page = f"{LIST}/{await team_id_of(service, 'tests')}"
    made = await admin.act(f"{page}/keys", name="shop", scopes=["read", "submit"], days="30")
    assert made.status_code == 201
    assert made.headers["Cache-Control"] == "no-store"
    key = seen_key(made.text)
    assert not [name for name, value in made.headers.items() if key in value]
    answer = await service.caller.http.get("/v2/jobs", headers={"X-API-Key": key})
    assert answer.status_code == 200
    assert key not in await admin.read(page)
    (row,) = await service.rows("SELECT id, scopes, expires_at FROM api_keys WHERE name = 'shop'")
    assert row.scopes == ["submit", "read"]
    assert row.expires_at is not None
    tested = seen_key((await admin.act(f"{page}/keys", scopes="read", test="1")).text)
    assert tested.startswith("fh_test_")
    rotated = await admin.act(f"/ops/keys/{row.id}/rotate", graceSeconds="3600")
    assert seen_key(rotated.text) != key
    assert "The key before it ends" in rotated.text
    assert (await admin.act(f"/ops/keys/{row.id}/rotate", graceSeconds="3600")).status_code == 409
    assert (await admin.act(f"/ops/keys/{row.id}/revoke")).headers["Location"] == f"/ops/keys/{row.id}"
    assert "is-revoked" in await admin.read(f"/ops/keys/{row.id}")
    noted = await service.rows(
        "SELECT action, CAST(data AS text) AS data FROM audit_log WHERE action LIKE 'key.%' ORDER BY id"
    )
    assert [entry.action for entry in noted] == ["key.created", "key.created", "key.rotated", "key.revoked"]
    assert not [entry for entry in noted if key in entry.data]
    for wrong in ({"scopes": "all"}, {"scopes": "read", "days": "0"}, {"scopes": "admin", "test": "1"}, {}):
        assert (await admin.act(f"{page}/keys", **wrong)).status_code == 400, wrong
    assert (await admin.act(f"/ops/keys/{row.id}/rotate", graceSeconds="soon")).status_code == 400
    assert (await admin.act(f"/ops/keys/{admin.key_id}/revoke")).status_code == 409  # the last admin key


def seen_key(html: str) -> str:
    """The key that a page shows."""
    found = re.search(r"fh_(?:live|test)_[\w-]{43}", html)
    assert found, html[:500]
    return found[0]


async def test_sessions_are_listed_and_ended_by_their_own_key_or_an_admin(
    service: Service, operator: Operator, admin: Operator
) -> None:
    async with AsyncExitStack() as stack:
        other = await sign_in(stack, service, team="others")
        (session,) = await service.rows("SELECT id FROM sessions WHERE key_id = :id", id=other.key_id)
        html = await operator.read("/ops/sessions")
        assert all(f"/ops/keys/{each.key_id}" in html for each in (operator, admin, other))
        assert html.count("this one") == 1
        assert f"{session.id}/end" not in html
        assert (await operator.act(f"/ops/sessions/{session.id}/end")).status_code == 403
        assert f"{session.id}/end" in await admin.read("/ops/sessions")
        assert (await admin.act(f"/ops/sessions/{session.id}/end")).status_code == 303
        await other.read("/ops/audit", status=303)
    assert (await admin.act(f"/ops/sessions/{session.id}/end")).status_code == 404
    (own,) = await service.rows("SELECT id FROM sessions WHERE key_id = :id", id=operator.key_id)
    assert "/ops/sign-in" in (await operator.act(f"/ops/sessions/{own.id}/end")).headers["Location"]
    assert await actions_of(service, "session.ended") == [
        ("session.ended", str(session.id), str(admin.key_id)),
        ("session.ended", str(own.id), str(operator.key_id)),
    ]
