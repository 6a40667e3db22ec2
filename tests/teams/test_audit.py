"""The audit log: what admins, operators and commands did, in the transaction that did it, told to whom it concerns."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from app.auth import NOBODY
from app.auth import Caller as Known
from app.clock import timestamp
from app.deliveries import subscriptions
from app.jobs import upstream
from app.simulator.server import RunningSimulator
from app.teams import audit, issuing
from app.teams.asking import NewKeyRequest
from tests.harness import FLUX, Caller, Service, held_job, refused
from tests.teams.admins import every_page, limit_team, team_id_of

LATER = {"Prefer": "respond-async"}
HOOK = {"url": "http://127.0.0.1:9/hook", "headers": {"Authorization": "very secret"}}


async def entries(service: Service) -> list[Any]:
    """What was noted, in order."""
    return await service.rows(
        "SELECT a.actor, a.action, a.subject, t.name AS team, a.data FROM audit_log a LEFT JOIN teams t"
        " ON t.id = a.team_id ORDER BY a.id"
    )


async def actions(service: Service) -> list[str]:
    return [entry.action for entry in await entries(service)]


async def test_what_admins_do_to_teams_is_noted_with_what_was_before(quiet: Service, admin: Caller) -> None:
    made = (await admin.http.post("/v1/teams", json={"name": "new", "queuedLimit": 5})).json()
    path = f"/v1/teams/{made['id']}"
    await admin.http.patch(path, json={"queuedLimit": 6, "allowedModels": ["flux-*"], "inFlightLimit": None})
    await admin.http.patch(path, json={"queuedLimit": 6})
    await admin.http.patch(path, json={"paused": True})
    await admin.http.patch(path, json={"paused": False})

    noted = await entries(quiet)

    assert {(entry.actor, entry.subject, entry.team) for entry in noted} == {(str(admin.key_id), made["id"], "new")}
    assert [(entry.action, entry.data) for entry in noted] == [
        ("team.created", {"name": "new", "queuedLimit": 5}),
        (
            "team.changed",
            {
                "before": {"queuedLimit": 5, "allowedModels": None},
                "after": {"queuedLimit": 6, "allowedModels": ["flux-*"]},
            },
        ),
        ("team.paused", {}),
        ("team.resumed", {}),
    ]


async def test_what_admins_do_to_keys_is_noted_without_the_keys(quiet: Service, admin: Caller) -> None:
    made = (await admin.http.post("/v1/keys", json={"team": "tests", "scopes": ["read"], "name": "n"})).json()
    rotated = (await admin.http.post(f"/v1/keys/{made['id']}/rotate", json={"graceSeconds": 5})).json()
    await admin.http.delete(f"/v1/keys/{rotated['id']}")

    noted = await entries(quiet)

    assert [(entry.action, entry.subject, entry.team) for entry in noted] == [
        ("key.created", made["id"], "tests"),
        ("key.rotated", made["id"], "tests"),
        ("key.revoked", rotated["id"], "tests"),
    ]
    assert noted[0].data == {"name": "n", "scopes": ["read"], "expiresAt": None}
    assert noted[1].data == {"to": rotated["id"], "expiresAt": rotated["previousExpiresAt"]}
    told = str(noted)
    assert made["key"][14:] not in told
    assert rotated["key"][14:] not in told


async def test_what_is_refused_or_rolled_back_is_not_noted(
    quiet: Service, admin: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(await admin.http.delete(f"/v1/keys/{admin.key_id}"), 409)
    refused(await admin.http.post("/v1/teams", json={"name": "tests"}), 409)
    refused(await admin.http.post("/v1/keys", json={"team": "nobody", "scopes": ["read"]}), 400)
    assert await entries(quiet) == []

    async def break_down(*_: Any, **__: Any) -> None:
        raise RuntimeError("struck")

    monkeypatch.setattr(audit, "note", break_down)
    with suppress(RuntimeError):
        await issuing.revoke(quiet.ctx, Known(NOBODY, NOBODY, "", frozenset({"admin"})), quiet.caller.key_id)
    assert (await admin.http.patch(f"/v1/teams/{await team_id_of(quiet, 'tests')}", json={"queuedLimit": 5})).is_error
    assert await quiet.rows("SELECT 1 FROM api_keys WHERE revoked_at IS NOT NULL") == []
    assert await quiet.rows("SELECT 1 FROM teams WHERE queued_limit IS NOT NULL") == []


async def test_what_a_team_does_to_its_own_things_is_its_own_affair_but_for_replays(quiet: Service) -> None:
    own = await quiet.new_caller("tests", ("submit", "read", "subscribe"))
    made = (await own.http.post("/v1/subscriptions", json=HOOK)).json()
    path = f"/v1/subscriptions/{made['id']}"
    await own.http.patch(path, json={"description": "x"})
    await own.http.post(f"{path}/enable")
    await own.http.post(f"{path}/rotate-secret")
    job_id = await own.accepted(FLUX, **LATER)
    for action in ("refresh", "cancel", "retry"):
        assert (await own.http.post(f"/v1/jobs/{job_id}/{action}", headers=LATER)).is_success
    assert await entries(quiet) == []

    replay = (await own.http.post(f"{path}/replay", json={"undeliveredOnly": False})).json()
    await own.http.post(f"/v1/replays/{replay['id']}/abort")
    await own.http.post(f"{path}/replay", json={"dryRun": True})
    await own.http.delete(path)

    assert [(entry.action, entry.subject, entry.actor) for entry in await entries(quiet)] == [
        ("replay.started", replay["id"], str(own.key_id)),
        ("replay.aborted", replay["id"], str(own.key_id)),
    ]


async def test_what_others_do_to_a_teams_subscriptions_is_noted_without_secrets(quiet: Service, admin: Caller) -> None:
    own, operator = await quiet.new_caller("tests", ("subscribe",)), await quiet.new_caller("operators", ("ops",))
    made = (await own.http.post("/v1/subscriptions", json=HOOK)).json()
    path = f"/v1/subscriptions/{made['id']}"
    assert (await operator.http.post(f"{path}/enable")).is_success
    assert (await operator.http.post(f"{path}/test")).is_success
    assert (await admin.http.patch(path, json={"headers": {"X-Key": "other secret"}, "description": "d"})).is_success
    rotated = await admin.http.post(f"{path}/rotate-secret", json={})
    (delivery, *_) = (await operator.http.get(f"{path}/deliveries")).json()["deliveries"]
    assert (await operator.http.post(f"/v1/deliveries/{delivery['id']}/redeliver")).is_success
    assert (await admin.http.delete(path)).is_success
    everything = await admin.http.post("/v1/subscriptions", json=HOOK | {"allTeams": True})

    noted = await entries(quiet)

    assert [(entry.action, entry.team) for entry in noted] == [
        ("subscription.enabled", "tests"),
        ("subscription.tested", "tests"),
        ("subscription.changed", "tests"),
        ("subscription.secret_rotated", "tests"),
        ("delivery.redelivered", "tests"),
        ("subscription.deleted", "tests"),
        ("subscription.created", "admin"),
    ]
    assert noted[2].data == {"fields": ["description", "headers"]}
    for secret in (made["secret"], rotated.json()["secret"], everything.json()["secret"], "secret'", "very", "other"):
        assert secret not in str([entry.data for entry in noted])


async def test_what_operators_do_to_another_teams_jobs_is_noted_once(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(hold=True)
    service = await serve(simulator, loops=False)
    operator = await service.new_caller("operators", ("ops",))
    waiting, sent = await service.caller.accepted(FLUX, **LATER), await held_job(service, simulator)
    for action in ("cancel", "retry"):
        assert (await operator.http.post(f"/v1/jobs/{waiting}/{action}", headers=LATER)).is_success
    again = {"Idempotency-Key": "one", **LATER}
    retried = [(await operator.http.post(f"/v1/jobs/{waiting}/retry", headers=again)).json()["jobId"] for _ in range(2)]
    assert (await operator.http.post(f"/v1/jobs/{sent.id}/refresh")).is_success
    refused(await operator.http.post(f"/v1/jobs/{sent.id}/cancel"), 409)

    noted = await entries(service)

    assert [(entry.action, entry.subject) for entry in noted] == [
        ("job.cancelled", waiting),
        ("job.retried", waiting),
        ("job.retried", waiting),
        ("job.refreshed", sent.id),
    ]
    assert {(entry.actor, entry.team) for entry in noted} == {(str(operator.key_id), "tests")}
    assert noted[2].data == {"job": retried[0]}
    assert retried[0] == retried[1]


async def test_what_commands_do_is_noted_under_their_own_name(quiet: Service) -> None:
    shell = Known(NOBODY, NOBODY, "", frozenset({"admin"}))
    await upstream.set_paused(quiet.ctx, None, paused=True)
    await upstream.set_paused(quiet.ctx, "tests", paused=True)
    await upstream.set_paused(quiet.ctx, "tests", paused=True)
    await upstream.set_paused(quiet.ctx, None, paused=False)
    async with quiet.ctx.db.transaction() as tx:
        await issuing.issue(tx, shell.actor, NewKeyRequest("newcomers", ("read",)), quiet.ctx.now())
    own = replace(shell, team_id=UUID(await team_id_of(quiet, "tests")), team="tests")
    await subscriptions.create(quiet.ctx, own, HOOK)

    noted = await entries(quiet)

    assert {entry.actor for entry in noted} == {"cli"}
    assert [(entry.action, entry.team) for entry in noted] == [
        ("dispatch.paused", None),
        ("team.paused", "tests"),
        ("dispatch.resumed", None),
        ("team.created", "newcomers"),
        ("key.created", "newcomers"),
        ("subscription.created", "tests"),
    ]


async def test_entries_are_read_page_by_page_by_whom_they_concern(quiet: Service, admin: Caller) -> None:
    began = quiet.ctx.now()
    operator, stranger = await quiet.new_caller("operators", ("ops",)), await quiet.new_caller("strangers")
    await upstream.set_paused(quiet.ctx, None, paused=True)
    for number in range(1, 4):
        await limit_team(quiet, "tests", queuedLimit=number)
    await limit_team(quiet, "strangers", paused=True)

    own = ["team.changed"] * 3
    everything = ["team.paused", *own, "dispatch.paused"]
    for limit in (1, 2, 500):
        for caller, wanted in (
            (quiet.caller, own),
            (stranger, ["team.paused"]),
            (operator, everything),
            (admin, everything),
        ):
            read = await every_page(caller, "/v1/audit", "entries", limit=limit)
            assert [entry["action"] for entry in read] == wanted
    (newest, *_) = await every_page(operator, "/v1/audit", "entries", team="tests")
    assert newest["data"] == {"before": {"queuedLimit": 2}, "after": {"queuedLimit": 3}}
    assert (newest["team"], newest["subject"]) == ("tests", await team_id_of(quiet, "tests"))

    for query, count in (
        ({"action": "team."}, 4),
        ({"action": "team.p"}, 1),
        ({"action": "%"}, 0),
        ({"team": "strangers", "action": "dispatch."}, 0),
        ({"since": timestamp(began)}, 5),
        ({"since": timestamp(quiet.ctx.now() + timedelta(minutes=1))}, 0),
    ):
        assert len(await every_page(operator, "/v1/audit", "entries", **query)) == count, query
    for wrong in ({"limit": 501}, {"cursor": "x"}, {"since": "x"}, {"action": "\0"}, {"team": "nobody"}):
        refused(await operator.http.get("/v1/audit", params=wrong), 400)
    refused(await quiet.caller.http.get("/v1/audit", params={"team": "strangers"}), 403)
    assert await actions(quiet) == list(reversed(everything))
