"""The feed: pages of the log in order, each event once, for whoever may see it; waiting for what is to come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from msgspec.structs import replace

from app import notify, partitions
from app.clock import SettableClock
from app.events import feed
from app.models.events import EVENT_TYPES
from app.ops.pruning import prune_once
from app.simulator.server import RunningSimulator
from app.teams.keys import revoke_key
from tests.harness import Caller, Service, eventually, refused
from tests.listening import all_sequences, append_events, fact, team_of

LATER = {"Prefer": "respond-async"}
AtRest = Callable[..., Awaitable[None]]


async def page(caller: Caller, path: str = "/v1/events", **query: Any) -> dict[str, Any]:
    answer = await caller.http.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def numbers(seen: dict[str, Any]) -> list[int]:
    return [event["sequence"] for event in seen["events"]]


def waiting(caller: Caller, **query: Any) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(caller.http.get("/v1/events", params={"wait": 60} | query))


@pytest.fixture
def at_rest(monkeypatch: pytest.MonkeyPatch) -> AtRest:
    """Return when a reader, or so many, have looked in vain and wait: `await at_rest()`."""
    resting = set[asyncio.Event]()

    async def rest(nudged: asyncio.Event, seconds: float) -> None:
        resting.add(nudged)
        await notify.wait(nudged, seconds)

    async def look() -> int:
        return len(resting)

    async def reached(readers: int = 1) -> None:
        await eventually(look, lambda count: count >= readers)

    monkeypatch.setattr(feed, "wait", rest)
    return reached


async def test_a_job_is_told_by_the_event_object(quiet: Service) -> None:
    owner = await quiet.new_caller("tests", scopes=("submit", "read", "subscribe"))
    job_id = await owner.accepted(**LATER)
    (event,) = (await page(owner))["events"]

    assert list(event) == ["id", "type", "timestamp", "sequence", "data"]
    assert event["type"] == "job.queued"
    assert event["timestamp"].endswith("Z")
    job = await owner.read(job_id)
    assert event["data"] == job | {"webhookStatus": None}


async def test_pages_show_everything_once_and_say_whether_there_is_more(quiet: Service, subscriber: Caller) -> None:
    team = await team_of(quiet, subscriber.key_id)
    written = await append_events(quiet, *(fact(team=team) for _ in range(25)))

    seen, cursor, more = list[int](), None, True
    pages = 0
    while more:
        one = await page(subscriber, limit=10, **({"after": cursor} if cursor else {}))
        seen += numbers(one)
        cursor, more, pages = one["nextCursor"], one["hasMore"], pages + 1

    assert seen == written
    assert pages == 3
    assert cursor == str(written[-1])
    assert await page(subscriber, after=cursor) == {"events": [], "nextCursor": cursor, "hasMore": False}
    assert numbers(await page(subscriber, after=written[3], limit=1)) == [written[4]]


async def test_a_limit_is_a_hundred_unless_it_is_said_and_a_thousand_at_most(
    quiet: Service, subscriber: Caller
) -> None:
    team = await team_of(quiet, subscriber.key_id)
    written = await append_events(quiet, *(fact(team=team) for _ in range(1_001)))

    assert numbers(await page(subscriber)) == written[:100]
    assert numbers(await page(subscriber, limit=1_000)) == written[:1_000]


async def test_types_are_names_or_patterns_and_the_cursor_passes_all_others(quiet: Service, subscriber: Caller) -> None:
    team = await team_of(quiet, subscriber.key_id)
    written = await append_events(quiet, *(fact(kind, team=team) for kind in EVENT_TYPES))

    for types, wanted in (
        ("*", EVENT_TYPES),
        ("job.*", [kind for kind in EVENT_TYPES if kind.startswith("job.")]),
        ("job.completed", ["job.completed"]),
        ("job.failed,budget.*", ["job.failed", "budget.threshold"]),
        ("job.failed, job.*,budget.threshold", [kind for kind in EVENT_TYPES if not kind.startswith("subscription")]),
    ):
        seen = await page(subscriber, types=types)
        assert [event["type"] for event in seen["events"]] == list(wanted), types
        assert seen["nextCursor"] == str(written[-1])


async def test_what_cannot_be_understood_is_refused_by_its_name(quiet: Service, subscriber: Caller) -> None:
    (number,) = await append_events(quiet, fact(team=await team_of(quiet, subscriber.key_id)))

    for query, names in (
        ("limit=0", {"limit"}),
        ("limit=1001", {"limit"}),
        ("limit=ten", {"limit"}),
        ("after=x", {"after"}),
        ("after=", {"after"}),
        ("after=-1", {"after"}),
        ("after=1.5", {"after"}),
        ("after=%C2%B2", {"after"}),
        (f"after={number + 1}", {"after"}),
        (f"after={10**18}", {"after"}),
        (f"after={10**40}", {"after"}),
        ("wait=-1", {"wait"}),
        ("wait=61", {"wait"}),
        ("wait=nan", {"wait"}),
        ("types=", {"types"}),
        ("types=job", {"types"}),
        ("types=job.complete", {"types"}),
        ("types=job.comp*", {"types"}),
        ("types=jobs.*", {"types"}),
        ("types=job.completed,,", {"types"}),
        ("types=%25", {"types"}),
        ("types=x&limit=0&after=y&wait=z", {"types", "limit", "after", "wait"}),
    ):
        body = refused(await subscriber.http.get(f"/v1/events?{query}"), 400)
        assert set(body["details"]) == names, query


async def test_latest_begins_with_what_comes_next(quiet: Service, subscriber: Caller, at_rest: AtRest) -> None:
    team = await team_of(quiet, subscriber.key_id)
    written = await append_events(quiet, fact(team=team), fact(team=team))

    now = await page(subscriber, after="latest")
    assert now == {"events": [], "nextCursor": str(written[-1]), "hasMore": False}

    following = waiting(subscriber, after="latest")
    await at_rest()
    later = await append_events(quiet, fact(team=team))
    assert numbers((await following).json()) == later


async def test_an_empty_log_has_a_cursor_too(quiet: Service, subscriber: Caller) -> None:
    for query in ({}, {"after": "0"}, {"after": "latest"}):
        assert await page(subscriber, **query) == {"events": [], "nextCursor": "0", "hasMore": False}


async def test_waiting_ends_with_the_first_event_that_concerns_the_reader(
    quiet: Service, subscriber: Caller, at_rest: AtRest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "LOOK_AGAIN_SECONDS", 60)
    mine, other = await team_of(quiet, subscriber.key_id), uuid4()
    following = waiting(subscriber, types="job.completed")
    await at_rest()
    await append_events(quiet, fact("job.completed", team=other), fact("job.failed", team=mine))
    await append_events(quiet, fact("job.progress", team=mine))
    written = await append_events(quiet, fact("job.completed", team=mine))

    seen = (await asyncio.wait_for(following, 30)).json()
    assert numbers(seen) == written
    assert seen["nextCursor"] == str(written[-1])


async def test_waiting_in_vain_ends_in_time(subscriber: Caller) -> None:
    began = time.monotonic()
    assert await page(subscriber, wait="0.7") == {"events": [], "nextCursor": "0", "hasMore": False}
    assert time.monotonic() - began >= 0.7


async def test_waiting_in_vain_moves_the_cursor_on(
    quiet: Service, subscriber: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = list[int]()

    async def wait(_nudged: asyncio.Event, _seconds: float) -> None:
        written.extend(await append_events(quiet, fact(team=uuid4())))
        quiet.ctx.begin_closing()  # so that the next look is the last

    monkeypatch.setattr(feed, "wait", wait)
    assert await page(subscriber, wait="60") == {"events": [], "nextCursor": str(written[-1]), "hasMore": False}
    assert len(written) == 1


async def test_a_lost_nudge_costs_a_reader_seconds_only(quiet: Service, subscriber: Caller, at_rest: AtRest) -> None:
    team = await team_of(quiet, subscriber.key_id)
    following = waiting(subscriber)
    await at_rest()
    written = await append_events(quiet, fact(team=team), nudge=False)

    assert numbers((await asyncio.wait_for(following, 30)).json()) == written


async def test_waiting_holds_no_connection(
    serve: Callable[..., Any], simulator: RunningSimulator, at_rest: AtRest
) -> None:
    service: Service = await serve(simulator, loops=False, pool_size=2)
    reader = await service.new_caller("tests", scopes=("subscribe", "read"))
    readers = [waiting(reader) for _ in range(20)]
    await at_rest(20)

    assert (await reader.http.get("/v2/jobs")).status_code == 200
    written = await append_events(service, fact(team=await team_of(service, reader.key_id)))
    assert [numbers((await each).json()) for each in readers] == [written] * 20


async def test_a_key_that_is_revoked_waits_no_longer(quiet: Service, subscriber: Caller, at_rest: AtRest) -> None:
    following = waiting(subscriber)
    await at_rest()
    async with quiet.ctx.db.transaction() as tx:
        await revoke_key(tx, subscriber.key_id, quiet.ctx.now())

    refused(await asyncio.wait_for(following, 30), 401)


async def test_a_process_that_stops_answers_whoever_waits(
    quiet: Service, subscriber: Caller, at_rest: AtRest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "LOOK_AGAIN_SECONDS", 60)
    following = waiting(subscriber)
    await at_rest()
    quiet.ctx.begin_closing()

    assert (await asyncio.wait_for(following, 30)).json() == {"events": [], "nextCursor": "0", "hasMore": False}


async def test_a_team_reads_its_own_events_and_operators_those_of_all(quiet: Service, subscriber: Caller) -> None:
    mine, other = await team_of(quiet, subscriber.key_id), uuid4()
    written = await append_events(quiet, fact(team=mine), fact(team=other), fact(team=mine))

    assert numbers(await page(subscriber)) == [written[0], written[2]]
    for scope in ("ops", "admin"):
        assert numbers(await page(await quiet.new_caller("operators", scopes=(scope,)))) == written
    for scope in ("read", "submit"):
        body = refused(await (await quiet.new_caller("listeners", scopes=(scope,))).http.get("/v1/events"), 403)
        assert "subscribe" in body["error"]
    async with httpx.AsyncClient(base_url=quiet.url, trust_env=False, timeout=60) as anyone:
        refused(await anyone.get("/v1/events"), 401)


async def test_one_job_has_a_feed_of_its_own(quiet: Service, at_rest: AtRest) -> None:
    owner = await quiet.new_caller("tests", scopes=("submit", "read"))
    job, other = await owner.accepted(**LATER), await owner.accepted(**LATER)
    await owner.http.post(f"/v1/jobs/{job}/cancel")

    path = f"/v1/jobs/{job}/events"
    seen = await page(owner, path)
    assert [event["type"] for event in seen["events"]] == ["job.queued", "job.cancelled"]
    assert {event["data"]["id"] for event in seen["events"]} == {job}
    assert (await page(owner, path, types="job.cancelled"))["events"] == seen["events"][1:]
    assert (await page(owner, path, after=numbers(seen)[0]))["events"] == seen["events"][1:]
    assert [e["type"] for e in (await page(owner, f"/v1/jobs/{other}/events"))["events"]] == ["job.queued"]

    following = asyncio.create_task(owner.http.get(f"/v1/jobs/{other}/events?after=latest&wait=60"))
    await at_rest()
    await owner.http.post(f"/v1/jobs/{other}/cancel")
    assert [event["type"] for event in (await following).json()["events"]] == ["job.cancelled"]


async def test_the_events_of_a_job_that_is_not_the_teams_are_not_found(quiet: Service) -> None:
    job = await quiet.caller.accepted(**LATER)
    stranger = await quiet.new_caller("strangers", scopes=("submit", "read", "subscribe"))
    operator = await quiet.new_caller("operators", scopes=("ops",))
    subscriber = await quiet.new_caller("tests", scopes=("subscribe",))
    submitter = await quiet.new_caller("tests", scopes=("submit",))

    for ending in ("events", "events/stream"):
        refused(await stranger.http.get(f"/v1/jobs/{job}/{ending}"), 404)
        refused(await quiet.caller.http.get(f"/v1/jobs/{uuid4()}/{ending}"), 404)
        refused(await quiet.caller.http.get(f"/v1/jobs/nothing/{ending}"), 404)
        refused(await submitter.http.get(f"/v1/jobs/{job}/{ending}"), 403)
    for caller in (operator, subscriber, quiet.caller):
        assert len((await page(caller, f"/v1/jobs/{job}/events"))["events"]) == 1


async def test_a_cursor_past_retention_is_gone_and_told_the_oldest_that_is_good(
    quiet: Service, subscriber: Caller
) -> None:
    now = quiet.ctx.now()
    team = await team_of(quiet, subscriber.key_id)
    async with quiet.ctx.db.transaction() as tx:
        await partitions.ensure(tx, now - timedelta(days=120), days=0)
    (gone,) = await append_events(quiet, replace(fact(team=team), at=now - timedelta(days=120)))
    kept = await append_events(quiet, fact(team=team))
    quiet.ctx.clock = SettableClock()
    while await prune_once(quiet.ctx):
        pass

    for path in ("/v1/events", "/v1/events/stream"):
        body = refused(await subscriber.http.get(f"{path}?after={gone - 1}"), 410)
        assert body["oldestCursor"] == str(gone)
    assert numbers(await page(subscriber, after=gone)) == numbers(await page(subscriber)) == kept
    assert await all_sequences(quiet) == [gone, *kept]
