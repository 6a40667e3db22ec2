"""Keys over HTTP: made, listed, rotated with a grace and revoked, and never the last admin key."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.clock import SettableClock, timestamp
from app.simulator.server import RunningSimulator
from tests.harness import FLUX, Caller, Service, eventually, refused
from tests.teams.admins import every_page, new_admin

DAY = 24 * 3600
BELIEVED_SECONDS = 1.0


async def make(admin: Caller, **body: Any) -> dict[str, Any]:
    answer = await admin.http.post("/v1/keys", json={"team": "tests", "scopes": ["read"]} | body)
    assert answer.status_code == 201, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    made: dict[str, Any] = answer.json()
    return made


async def rotate(admin: Caller, key_id: str, **body: Any) -> httpx.Response:
    return await admin.http.post(f"/v1/keys/{key_id}/rotate", json=body)


async def status(service: Service, key: str) -> int:
    return (await service.caller.http.get("/v2/jobs", headers={"X-API-Key": key})).status_code


async def test_a_key_is_shown_when_it_is_made_and_never_again(quiet: Service, admin: Caller) -> None:
    ends = timestamp(quiet.ctx.now() + timedelta(days=3))
    made = await make(admin, scopes=["read", "submit", "read"], name="the poster machine", expiresAt=ends)

    key = made.pop("key")
    assert key.startswith(made["prefix"])
    assert await status(quiet, key) == 200
    wanted = {"team": "tests", "name": "the poster machine", "scopes": ["submit", "read"], "expiresAt": ends}
    assert wanted.items() <= made.items()
    assert (made["revokedAt"], made["rotatedTo"], made["lastUsedAt"]) == (None, None, None)
    for path in (f"/v1/keys/{made['id']}", "/v1/keys", "/v1/audit"):
        told = (await admin.http.get(path)).text
        assert made["id"] in told
        assert key not in told
        assert key[len(made["prefix"]) :] not in told
    assert (await admin.http.get(f"/v1/keys/{made['id']}")).json()["lastUsedAt"] is not None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"team": "nobody"}, "team"),
        ({"team": None}, "team"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["root"]}, "scopes"),
        ({"scopes": "read"}, "scopes"),
        ({"name": 5}, "name"),
        ({"name": "a\0"}, "name"),
        ({"expiresAt": "tomorrow"}, "expiresAt"),
        ({"expiresAt": "2020-01-01T00:00:00Z"}, "expiresAt"),
        ({"expiresAt": "9999-12-31T00:00:00Z"}, "expiresAt"),
        ({"key": "my own"}, "key"),
    ],
)
async def test_a_wrong_field_is_told_and_no_key_is_made(
    quiet: Service, admin: Caller, body: dict[str, Any], field: str
) -> None:
    answer = await admin.http.post("/v1/keys", json={"team": "tests", "scopes": ["read"]} | body)

    assert set(refused(answer, 400)["details"]) == {field}
    assert len(await quiet.rows("SELECT id FROM api_keys")) == 2


async def test_keys_are_listed_page_by_page_to_their_team_and_to_admins_all_of_them(
    quiet: Service, admin: Caller
) -> None:
    other = await quiet.new_caller("others", ("ops",))
    made = [str(quiet.caller.key_id), *[(await make(admin))["id"] for _ in range(4)]]

    for limit in (1, 2, 200):
        assert [key["id"] for key in await every_page(quiet.caller, "/v1/keys", "keys", limit=limit)] == made
        assert len(await every_page(admin, "/v1/keys", "keys", limit=limit)) == 7
        assert [key["id"] for key in await every_page(admin, "/v1/keys", "keys", limit=limit, team="tests")] == made
    assert [key["id"] for key in await every_page(other, "/v1/keys", "keys")] == [str(other.key_id)]
    assert len(await every_page(quiet.caller, "/v1/keys", "keys", team="tests")) == 5
    for wrong in ({"limit": 0}, {"cursor": "x"}, {"team": "nobody"}, {"team": "\0"}):
        refused(await admin.http.get("/v1/keys", params=wrong), 400)
    for named in ("others", "nobody"):
        refused(await quiet.caller.http.get("/v1/keys", params={"team": named}), 403)


async def test_only_admins_make_rotate_and_revoke_keys(quiet: Service, admin: Caller) -> None:
    own, other = str(quiet.caller.key_id), str(admin.key_id)
    operator = await quiet.new_caller("tests", ("ops", "submit", "read", "subscribe"))

    for caller in (quiet.caller, operator):
        refused(await caller.http.post("/v1/keys", json={"team": "tests", "scopes": ["read"]}), 403)
        assert (await caller.http.get(f"/v1/keys/{own}")).status_code == 200
        refused(await rotate(caller, own), 403)
        refused(await caller.http.delete(f"/v1/keys/{own}"), 403)
        refused(await caller.http.get(f"/v1/keys/{other}"), 404)
        refused(await rotate(caller, other), 404)
        refused(await caller.http.delete(f"/v1/keys/{other}"), 404)
    for key_id in (str(uuid4()), "x"):
        refused(await rotate(admin, key_id), 404)
        refused(await admin.http.delete(f"/v1/keys/{key_id}"), 404)


async def test_a_rotated_key_goes_on_for_the_grace_beside_the_one_that_takes_its_place(
    quiet: Service, admin: Caller
) -> None:
    quiet.ctx.clock = clock = SettableClock()
    old = await make(admin, scopes=["submit", "read"], name="machine")

    answer = await rotate(admin, old["id"], graceSeconds=3600)

    assert answer.status_code == 201
    new = answer.json()
    assert (new["previousKeyId"], new["rotatedTo"], new["expiresAt"]) == (old["id"], None, None)
    assert [new[name] for name in ("team", "name", "scopes")] == [old[name] for name in ("team", "name", "scopes")]
    assert (await status(quiet, old["key"]), await status(quiet, new["key"])) == (200, 200)
    told = (await admin.http.get(f"/v1/keys/{old['id']}")).json()
    assert (told["rotatedTo"], told["expiresAt"]) == (new["id"], new["previousExpiresAt"])
    assert "rotated already" in refused(await rotate(admin, old["id"]), 409)["error"]

    clock.advance(3601)
    await eventually(lambda: status(quiet, old["key"]), lambda seen: seen == 401)
    assert await status(quiet, new["key"]) == 200


async def test_a_grace_is_a_day_and_never_longer_than_the_key_would_have_lived(quiet: Service, admin: Caller) -> None:
    now = quiet.ctx.now()
    lasting, ending = await make(admin), await make(admin, expiresAt=timestamp(now + timedelta(hours=2)))

    default, short = (await rotate(admin, lasting["id"])).json(), (await rotate(admin, ending["id"])).json()

    for told, hours in ((default, 24), (short, 2)):
        left = read(told["previousExpiresAt"]) - now.timestamp()
        assert abs(left - hours * 3600) < 30
    assert abs(read(short["expiresAt"]) - now.timestamp() - 2 * 3600) < 30, "as long a life as the one before had"
    for grace in (-1, 30 * DAY + 1, "1", True, None):
        assert set(refused(await rotate(admin, lasting["id"], graceSeconds=grace), 400)["details"]) == {"graceSeconds"}


def read(time_text: str) -> float:
    return datetime.fromisoformat(time_text).timestamp()


async def test_what_is_over_cannot_be_rotated(quiet: Service, admin: Caller) -> None:
    quiet.ctx.clock = clock = SettableClock()
    revoked, expiring = await make(admin), await make(admin, expiresAt=timestamp(quiet.ctx.now() + timedelta(hours=1)))
    await admin.http.delete(f"/v1/keys/{revoked['id']}")
    clock.advance(3601)

    assert "revoked" in refused(await rotate(admin, revoked["id"]), 409)["error"]
    assert "expired" in refused(await rotate(admin, expiring["id"]), 409)["error"]


async def test_the_end_of_a_grace_reaches_every_process_within_a_second(
    serve: Callable[..., Any], simulator: RunningSimulator
) -> None:
    services = [await serve(simulator, loops=False) for _ in range(2)]
    admin = await new_admin(services[0])
    old = await make(admin)
    for service in services:
        assert await status(service, old["key"]) == 200

    rotated = await rotate(admin, old["id"], graceSeconds=1)
    left_seconds = read(rotated.json()["previousExpiresAt"]) - services[0].ctx.now().timestamp()
    ended_at = time.monotonic() + left_seconds

    for service in services:
        assert await status(service, rotated.json()["key"]) == 200
    last_taken, left = 0.0, list(services)
    while left:
        for service in list(left):
            asked_at = time.monotonic()
            if await status(service, old["key"]) == 401:
                left.remove(service)
            else:
                last_taken = max(last_taken, asked_at)
        assert time.monotonic() < ended_at + 60
    assert last_taken - ended_at <= BELIEVED_SECONDS + 0.1


async def test_the_end_of_a_grace_ends_waits_and_streams(quiet: Service, admin: Caller) -> None:
    quiet.ctx.clock = clock = SettableClock()
    job_id = await quiet.caller.accepted(FLUX, Prefer="respond-async")
    old = await make(admin, scopes=["read", "subscribe"])
    keyed = {"X-API-Key": old["key"]}
    waiting = asyncio.create_task(quiet.caller.http.get(f"/v2/jobs/{job_id}?wait=60", headers=keyed))
    async with quiet.caller.http.stream("GET", "/v1/events/stream", headers=keyed) as stream:
        assert stream.status_code == 200
        assert (await rotate(admin, old["id"], graceSeconds=60)).status_code == 201
        assert await status(quiet, old["key"]) == 200
        clock.advance(61)

        async def woken() -> bool:
            quiet.ctx.notify.wake_everyone()
            return waiting.done()

        await eventually(woken)
        refused(await waiting, 401)
        async with asyncio.timeout(60):
            async for _ in stream.aiter_bytes():
                pass


async def test_a_key_is_revoked_once_and_stays_so(quiet: Service, admin: Caller) -> None:
    made = await make(admin)

    for _ in range(2):
        answer = await admin.http.delete(f"/v1/keys/{made['id']}")
        assert (answer.status_code, answer.content) == (204, b"")

    await eventually(lambda: status(quiet, made["key"]), lambda seen: seen == 401)
    assert (await admin.http.get(f"/v1/keys/{made['id']}")).json()["revokedAt"] is not None
    assert len(await quiet.rows("SELECT 1 FROM audit_log WHERE action = 'key.revoked'")) == 1


async def test_the_last_admin_key_is_not_revoked(quiet: Service, admin: Caller) -> None:
    last = f"/v1/keys/{admin.key_id}"
    assert "make one first" in refused(await admin.http.delete(last), 409)["error"]

    short = await make(admin, scopes=["admin"], expiresAt=timestamp(quiet.ctx.now() + timedelta(days=1)))
    refused(await admin.http.delete(last), 409)  # tomorrow there would be none
    assert (await admin.http.delete(f"/v1/keys/{short['id']}")).status_code == 204
    await make(admin, team="tests", scopes=["read", "admin"])
    assert (await admin.http.delete(last)).status_code == 204


async def test_a_rotated_admin_key_is_not_what_the_last_one_leans_on(quiet: Service, admin: Caller) -> None:
    new = (await rotate(admin, str(admin.key_id), graceSeconds=3600)).json()

    refused(await admin.http.delete(f"/v1/keys/{new['id']}"), 409)
    assert (await admin.http.delete(f"/v1/keys/{admin.key_id}")).status_code == 204


async def test_two_admins_who_revoke_each_other_leave_one(
    serve: Callable[..., Any], simulator: RunningSimulator
) -> None:
    services = [await serve(simulator, loops=False) for _ in range(2)]
    for _ in range(5):
        one, other = [await new_admin(service) for service in services]
        await services[0].rows(
            "UPDATE api_keys SET revoked_at = now() WHERE 'admin' = ANY(scopes) AND id <> ALL(:ids) RETURNING 1",
            ids=[one.key_id, other.key_id],
        )

        answers = await asyncio.gather(
            one.http.delete(f"/v1/keys/{other.key_id}"), other.http.delete(f"/v1/keys/{one.key_id}")
        )

        # Whoever comes too late is the last one, or is not known any more.
        first, second = sorted(answer.status_code for answer in answers)
        assert (first, second) in ((204, 401), (204, 409))
        left = "SELECT id FROM api_keys WHERE 'admin' = ANY(scopes) AND revoked_at IS NULL"
        assert len(await services[0].rows(left)) == 1
