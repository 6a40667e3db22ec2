"""No team reaches another team's things, by any route there is.

The table below says of every route of `main.ROUTES` how it is tried; a route that is not in it fails the first test. A key
of team B, with every scope that a team may have, asks for a thing of team A and for one that does not exist, and both
answers must be the same 404, to the byte. Lists and streams of B hold B's things and none of A's.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest

from app.apiframe.signature import WEBHOOK_PATH
from app.main import ROUTES
from app.simulator.loras import Lora
from app.simulator.server import RunningSimulator
from tests.harness import FLUX, NO_TLS, Caller, Service, eventually, running_service, settings_for
from tests.receivers import Receiver, receiving
from tests.teams.admins import limit_team, new_admin, team_id_of

Route = tuple[str, str]

SCOPES: Final = ("submit", "read", "subscribe")
"""All that a team may have for itself."""


@dataclass(frozen=True)
class One:
    """A route to one thing: the name of A's thing in `Things`, and the body that would do something to it."""

    thing: str
    body: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Named:
    """A route that is told of one thing in its body, under `field`: the name of A's thing, and the rest of the body."""

    thing: str
    field: str
    body: Mapping[str, Any]


@dataclass(frozen=True)
class Many:
    """A route to a list: what it is asked with, so that it would hold A's things if it did not heed whose they are."""

    query: str = ""


@dataclass(frozen=True)
class Stream:
    """A route to a stream: the same, and it does not end."""

    query: str


@dataclass(frozen=True)
class Own:
    """A route that makes something for the caller alone and takes no id of anything."""


@dataclass(frozen=True)
class Admins:
    """A route that B's key has no scope for, whatever it asks."""

    body: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Open:
    """A route that asks for no key and tells of no team."""


MODEL: Final = "flux-2-max"
"""What A alone has used."""

Way = One | Named | Many | Stream | Own | Admins | Open

TABLE: Final[dict[Route, Way]] = {
    ("POST", "/v2/images/generate"): Own(),
    ("POST", "/v2/images/upscale"): Own(),
    ("POST", "/v2/images/edit"): Own(),
    ("POST", "/v2/images/background-remove"): Own(),
    ("POST", "/v2/images/midjourney/action"): Named("job", "parentJobId", {"action": "upsample", "index": 1}),
    ("POST", "/v2/videos/generate"): Own(),
    ("POST", "/v2/videos/upscale"): Own(),
    ("POST", "/v2/videos/edit"): Own(),
    ("POST", "/v2/music/generate"): Own(),
    ("POST", "/v2/music/suno/action"): Named("job", "parentJobId", {"action": "stems", "index": 1}),
    ("GET", "/v2/models"): Open(),
    ("POST", "/v2/uploads"): Own(),
    ("POST", "/v2/assets/create"): Own(),
    ("GET", "/v2/assets/{asset_id}"): One("asset"),
    ("POST", "/v2/loras"): Own(),
    ("GET", "/v2/loras"): Many(),
    ("GET", "/v2/loras/{lora_id}"): One("lora"),
    ("DELETE", "/v2/loras/{lora_id}"): One("lora"),
    ("GET", "/v2/me"): Many(),
    ("GET", "/v2/jobs"): Many("scope=team&include_models=true"),
    ("GET", "/v2/jobs/{job_id}"): One("job"),
    ("GET", "/v1/jobs/{job_id}/trace"): One("job"),
    ("POST", "/v1/jobs/{job_id}/cancel"): One("waiting_job"),
    ("POST", "/v1/jobs/{job_id}/retry"): One("cancelled_job"),
    ("POST", "/v1/jobs/{job_id}/refresh"): One("job"),
    ("GET", "/v1/jobs/{job_id}/events"): One("job"),
    ("GET", "/v1/jobs/{job_id}/events/stream"): One("job"),
    ("GET", "/v1/events"): Many(),
    ("GET", "/v1/events/stream"): Stream("after=0"),
    ("POST", "/v1/events/tickets"): Own(),
    ("POST", "/v1/subscriptions"): Own(),
    ("GET", "/v1/subscriptions"): Many(),
    ("GET", "/v1/subscriptions/{subscription_id}"): One("subscription"),
    ("PATCH", "/v1/subscriptions/{subscription_id}"): One("subscription", {"enabled": False}),
    ("DELETE", "/v1/subscriptions/{subscription_id}"): One("subscription"),
    ("POST", "/v1/subscriptions/{subscription_id}/enable"): One("subscription"),
    ("POST", "/v1/subscriptions/{subscription_id}/rotate-secret"): One("subscription", {"graceSeconds": 1}),
    ("POST", "/v1/subscriptions/{subscription_id}/test"): One("subscription"),
    ("GET", "/v1/subscriptions/{subscription_id}/deliveries"): One("subscription"),
    ("POST", "/v1/subscriptions/{subscription_id}/replay"): One("subscription", {"undeliveredOnly": False}),
    ("GET", "/v1/replays/{replay_id}"): One("replay"),
    ("POST", "/v1/replays/{replay_id}/abort"): One("replay"),
    ("GET", "/v1/deliveries/{delivery_id}"): One("delivery"),
    ("POST", "/v1/deliveries/{delivery_id}/redeliver"): One("delivery"),
    ("GET", "/v1/undelivered"): Many(),
    ("GET", "/v1/files/{file_id}"): One("file"),
    ("HEAD", "/v1/files/{file_id}"): One("file"),
    ("POST", "/v1/files/{file_id}/links"): One("file", {"expiresIn": 60}),
    ("GET", "/v1/files/{file_id}/thumbnail"): One("file"),
    ("GET", "/v1/teams"): Admins(),
    ("POST", "/v1/teams"): Admins({"name": "mine"}),
    ("GET", "/v1/teams/{team_id}"): One("team"),
    ("PATCH", "/v1/teams/{team_id}"): One("team", {"queuedLimit": 1}),
    ("GET", "/v1/keys"): Many(),
    ("POST", "/v1/keys"): Admins({"team": "a", "scopes": ["read"]}),
    ("GET", "/v1/keys/{key_id}"): One("key"),
    ("DELETE", "/v1/keys/{key_id}"): One("key"),
    ("POST", "/v1/keys/{key_id}/rotate"): One("key", {"graceSeconds": 60}),
    ("GET", "/v1/audit"): Many(),
    ("GET", "/v1/usage"): Many("group_by=team,model,operation,day"),
    ("GET", "/v1/status"): Admins(),
    ("GET", "/v1/stats"): Many("window=1h"),
    ("POST", WEBHOOK_PATH): Open(),  # the token in it is the upstream's key to one job
    ("GET", "/sandbox/files/{job_id}/{name}"): Open(),  # simulated, and found by who knows the upstream's id alone
    ("GET", "/healthz"): Open(),
    ("GET", "/readyz"): Open(),
    ("GET", "/metrics"): Open(),
}


@dataclass(frozen=True)
class Things:
    """The ids of what team A has, and two jobs of which B's counterparts may be asked."""

    job: str
    upstream_id: str
    waiting_job: str
    cancelled_job: str
    subscription: str
    delivery: str
    replay: str
    file: str
    key: str
    team: str
    asset: str
    lora: str
    fact: str
    model: str

    def secrets(self) -> set[str]:
        """What must stand nowhere in an answer to B."""
        return set(self.__dict__.values())


@dataclass(frozen=True)
class World:
    """Two teams that have one of everything, in one service."""

    service: Service
    a: Caller
    b: Caller
    things: Things
    own_job: str


@pytest.fixture
async def world(database_url: str, simulator: RunningSimulator, tmp_path: Path) -> AsyncIterator[World]:
    """Team A with one of everything, and team B beside it."""
    settings = settings_for(database_url, simulator, archive_url=f"file://{tmp_path}/files")
    async with receiving() as receiver, running_service(settings) as service:
        a, b = await service.new_caller("a", SCOPES), await service.new_caller("b", SCOPES)
        things = await make_things(service, simulator, a, receiver)
        own_job = await b.accepted(FLUX | {"prompt": "of b"})
        yield World(service, a, b, things, own_job)


async def make_things(service: Service, simulator: RunningSimulator, a: Caller, receiver: Receiver) -> Things:
    subscription = await made(a, "/v1/subscriptions", {"url": receiver.url, "types": ["job.*"]})
    deaf = await made(a, "/v1/subscriptions", {"url": "http://127.0.0.1:9/hook", "types": ["job.queued"]})
    job_id = await a.accepted(FLUX | {"model": MODEL, "prompt": "of a", "metadata": {"fact": "only of a"}})
    job = await eventually(lambda: a.read(job_id), lambda job: job["archiveStatus"] == "stored")
    admin = await new_admin(service)
    await limit_team(service, "a", paused=True)
    waiting, cancelled = [await a.accepted(FLUX, Prefer="respond-async") for _ in range(2)]
    assert (await a.http.post(f"/v1/jobs/{cancelled}/cancel")).is_success
    path = f"/v1/subscriptions/{subscription['id']}"
    deliveries = await eventually(lambda: a.http.get(f"{path}/deliveries"), lambda seen: seen.json()["deliveries"])
    replay = await made(a, f"{path}/replay", {"undeliveredOnly": False, "perSecond": 1}, status=202)
    assert (await admin.http.get("/v1/audit")).json()["entries"]
    await give_up(service, deaf["id"])
    await eventually(lambda: a.http.get("/v1/stats"), lambda seen: MODEL in seen.text)
    return Things(
        job=job_id,
        upstream_id=(await service.job(job_id)).upstream_id,
        waiting_job=waiting,
        cancelled_job=cancelled,
        subscription=subscription["id"],
        delivery=deliveries.json()["deliveries"][0]["id"],
        replay=replay["id"],
        file=job["files"][0]["id"],
        key=str(a.key_id),
        team=await team_id_of(service, "a"),
        asset=(await made(a, "/v2/assets/create", {"url": "https://a.example/a.png", "type": "image"}))["assetId"],
        lora=await make_lora(service, simulator, a),
        fact="only of a",
        model=MODEL,
    )


async def make_lora(service: Service, simulator: RunningSimulator, a: Caller) -> str:
    """A LoRA as the upstream has it, and that it is team A's."""
    lora_id = str(uuid4())
    simulator.world.loras[lora_id] = Lora(lora_id, "main", {"name": "of a"}, 15, 1, datetime.now(UTC))
    async with service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql(
            "INSERT INTO belongings SELECT $1, 'lora', $2, team_id, id, now() FROM api_keys WHERE id = $3",
            (service.ctx.account, lora_id, a.key_id),
        )
    return lora_id


async def give_up(service: Service, subscription_id: str) -> None:
    """Have a subscription's first delivery end as undelivered."""
    await service.rows(
        "UPDATE deliveries SET status = 'undelivered', due_at = NULL, lease_token = NULL, ended_at = now(), reason = 'x'"
        " WHERE id = (SELECT id FROM deliveries WHERE subscription_id = :id ORDER BY id LIMIT 1) RETURNING 1",
        id=subscription_id,
    )


async def made(caller: Caller, path: str, body: Mapping[str, Any], *, status: int = 201) -> dict[str, Any]:
    answer = await caller.http.post(path, json=body)
    assert answer.status_code == status, answer.text
    return dict(answer.json())


def body_of(way: One | Named, thing: str) -> Mapping[str, Any] | None:
    """What is sent: with the thing in it where it is told of there."""
    return {**way.body, way.field: thing} if isinstance(way, Named) else way.body


async def ask(caller: Caller, route: Route, thing: str, body: Mapping[str, Any] | None) -> httpx.Response:
    method, path = route
    filled = "/".join(thing if part.startswith("{") else part for part in path.split("/"))
    return await caller.http.request(method, filled, json=body)


# The table


def test_every_route_is_in_the_table() -> None:
    routes = {(method, path) for method, path, _ in ROUTES}
    missing = sorted(routes - TABLE.keys())
    assert not missing, f"say in TABLE of tests/test_isolation.py how another team's things are kept from: {missing}"
    assert sorted(TABLE.keys() - routes) == [], "these routes are gone"


def test_every_route_to_one_thing_names_a_thing_of_team_a() -> None:
    for (method, path), way in TABLE.items():
        if "{" in path and not isinstance(way, Open):
            assert isinstance(way, One), f"{method} {path} takes an id: make it a One"
        if isinstance(way, One):
            assert path.count("{") == 1
        if isinstance(way, One | Named):
            assert way.thing in Things.__dataclass_fields__


# The walks


async def test_one_thing_of_another_team_is_the_same_404_as_one_that_does_not_exist(world: World) -> None:
    before = await everything(world)
    for route, way in TABLE.items():
        if not isinstance(way, One | Named):
            continue
        thing = getattr(world.things, way.thing)
        seen, unknown = [await ask(world.b, route, each, body_of(way, each)) for each in (thing, str(uuid4()))]
        assert (seen.status_code, unknown.status_code) == (404, 404), f"{route}: {seen.status_code} {seen.text}"
        assert seen.content == unknown.content, route
        for answer in (seen, unknown):
            for header in ("X-Request-Id", "Date"):
                answer.headers.pop(header, None)
        assert seen.headers == unknown.headers, route
    assert await everything(world) == before, "something of A was changed"


async def test_the_same_things_are_there_for_their_own_team(world: World) -> None:
    """Else the 404s of the other team would say nothing."""
    admin = await new_admin(world.service)
    last = ("DELETE", "cancel")
    for route, way in sorted(TABLE.items(), key=lambda entry: entry[0][0] in last or entry[0][1].endswith(last)):
        if isinstance(way, One | Named) and not route[1].endswith("/stream"):
            caller = admin if route[0] != "GET" and route[1].startswith(("/v1/keys", "/v1/teams")) else world.a
            thing = getattr(world.things, way.thing)
            answer = await ask(caller, route, thing, body_of(way, thing))
            assert answer.status_code in (200, 201, 202, 204, 409, 503), f"{route}: {answer.status_code} {answer.text}"


async def everything(world: World) -> list[Any]:
    """What team A has, as the database has it, but for what goes on by itself."""
    team = {"id": world.things.team}
    return [
        await world.service.rows("SELECT id, status, retry_of FROM jobs WHERE team_id = :id ORDER BY id", **team),
        await world.service.rows(
            "SELECT id, secret, disabled_at, deleted_at FROM subscriptions WHERE team_id = :id ORDER BY id", **team
        ),
        await world.service.rows(
            "SELECT id, revoked_at, expires_at FROM api_keys WHERE team_id = :id ORDER BY id", **team
        ),
        await world.service.rows("SELECT name, queued_limit FROM teams WHERE id = :id", **team),
        await world.service.rows("SELECT id, subscription_id FROM replays ORDER BY id"),
        await world.service.rows("SELECT job_id FROM steps WHERE kind = 'action' ORDER BY id"),
    ]


async def test_no_list_holds_a_thing_of_another_team(world: World) -> None:
    for route, way in TABLE.items():
        if not isinstance(way, Many):
            continue
        own, foreign = [(await caller.http.get(f"{route[1]}?{way.query}")) for caller in (world.a, world.b)]
        assert (own.status_code, foreign.status_code) == (200, 200), f"{route}: {foreign.text}"
        assert any(thing in own.text for thing in world.things.secrets()), f"{route} tells A nothing: it shows nothing"
        assert not [thing for thing in world.things.secrets() if thing in foreign.text], route
    jobs = (await world.b.http.get("/v2/jobs?scope=team")).json()["jobs"]
    assert [job["id"] for job in jobs] == [world.own_job]


async def test_no_filter_of_a_list_reaches_another_teams_things(world: World) -> None:
    for thing in (world.things.job, world.things.upstream_id):
        trace = await world.b.http.get(f"/v1/jobs/{thing}/trace")
        assert trace.status_code == 404
        if thing == world.things.job:
            found = await world.b.http.get(f"/v2/jobs?scope=team&search={thing}")
            assert found.json()["jobs"] == []
    for path in ("/v2/jobs?team=a", "/v2/jobs?team=*", "/v1/keys?team=a", "/v1/audit?team=a", "/v1/stats?team=a"):
        named, unknown = await world.b.http.get(path), await world.b.http.get(path.replace("=a", "=nobody"))
        assert named.status_code == 403, path
        assert named.content == unknown.content, path


async def test_no_stream_tells_of_another_team(world: World) -> None:
    for route, way in TABLE.items():
        if not isinstance(way, Stream):
            continue
        told = await follow(world.b, f"{route[1]}?{way.query}", until=world.own_job)
        assert not [thing for thing in world.things.secrets() if thing in told], route
        assert world.things.job in await follow(world.a, f"{route[1]}?{way.query}", until=world.things.job)


async def follow(caller: Caller, path: str, *, until: str) -> str:
    """What a stream tells up to and with the first event about this job's end."""
    told = ""
    async with asyncio.timeout(60), caller.http.stream("GET", path) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            told += line
            if line.startswith("data:") and until in line and json.loads(line[5:])["type"] == "job.completed":
                break
    return told


async def test_a_ticket_opens_the_streams_of_its_own_team_only(world: World) -> None:
    ticket = (await made(world.b, "/v1/events/tickets", {}))["ticket"]
    async with httpx.AsyncClient(base_url=world.service.url, trust_env=False, verify=NO_TLS, timeout=60) as browser:
        answer = await browser.get(f"/v1/jobs/{world.things.job}/events/stream", params={"ticket": ticket})
    assert answer.status_code == 404


async def test_what_is_for_admins_is_refused_whatever_is_asked(world: World) -> None:
    for route, way in TABLE.items():
        if isinstance(way, Admins):
            answer = await world.b.http.request(*route, json=way.body)
            assert answer.status_code == 403, f"{route}: {answer.status_code} {answer.text}"
            assert not [thing for thing in world.things.secrets() if thing in answer.text], route


async def test_what_needs_no_key_tells_of_no_team(world: World) -> None:
    async with httpx.AsyncClient(base_url=world.service.url, trust_env=False, verify=NO_TLS, timeout=60) as anyone:
        for route, way in TABLE.items():
            if isinstance(way, Open) and "{" not in route[1]:
                answer = await anyone.request(*route)
                assert not [thing for thing in world.things.secrets() - {MODEL} if thing in answer.text], route
            elif not isinstance(way, Open):
                assert (await anyone.request(*route)).status_code == 401, route
