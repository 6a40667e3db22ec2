"""Streams: each event once and in order across connections, for as long as client, key, process and job allow it."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from sqlalchemy import text
from starlette.requests import ClientDisconnect, Request

from app.clock import SettableClock
from app.db import plain_url
from app.events import stream, tail
from app.events.feed import EventFilter
from app.simulator.server import RunningSimulator
from app.teams.keys import revoke_key
from tests.harness import Caller, Service, eventually, held_job, refused, tell
from tests.listening import Listener, all_sequences, append_events, fact, listening, team_of
from tests.sources import Gate

LATER = {"Prefer": "respond-async"}
STREAM = "/v1/events/stream"

LITTLE = 65_536
"""Bytes of room. In less than a segment of the loopback, TCP probes at ever longer intervals how much there is."""


@pytest.fixture
async def quiet(serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]) -> Service:
    """A service that does nothing by itself."""
    started: Service = await serve(simulate(hold=True), loops=False)
    return started


@pytest.fixture
async def subscriber(quiet: Service) -> Caller:
    """A key that may read the events of its team, which has no other."""
    return await quiet.new_caller("listeners", scopes=("subscribe",))


@pytest.fixture
async def team(quiet: Service, subscriber: Caller) -> UUID:
    """The subscriber's team."""
    return await team_of(quiet, subscriber.key_id)


async def revoke(service: Service, caller: Caller) -> None:
    async with service.ctx.db.transaction() as tx:
        await revoke_key(tx, caller.key_id, service.ctx.now())


async def ticket_of(caller: Caller) -> str:
    answer = await caller.http.post("/v1/events/tickets")
    assert answer.status_code == 201, answer.text
    return str(answer.json()["ticket"])


@asynccontextmanager
async def mute(service: Service, caller: Caller, path: str = STREAM) -> AsyncIterator[socket.socket]:
    """A client that asks for a stream and reads nothing of it, with little room for it."""
    address = urlsplit(service.url)
    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LITTLE)
        silent.setblocking(False)
        await asyncio.get_running_loop().sock_connect(silent, (address.hostname, address.port))
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {caller.key}\r\n\r\n"
        await asyncio.get_running_loop().sock_sendall(silent, request.encode())
        yield silent


async def told_to(one: Any) -> int:
    """How many events were written to a client."""
    return int(one._event_count)


async def read_to_the_end(connection: socket.socket) -> bytes:
    """What comes until the other side ends the answer or closes the connection, which it keeps after an answer."""
    received = bytearray()
    async with asyncio.timeout(60):
        while not received.endswith(b"\r\n0\r\n\r\n"):
            if not (part := await asyncio.get_running_loop().sock_recv(connection, 65_536)):
                break
            received += part
    return bytes(received)


async def teams_followed(service: Service) -> list[UUID | None]:
    """Whose events the clients are told: a team's each, or None for those of all."""
    clients: list[Any] = list(tail_of(service)._followers)
    return [one._asked.team_id for one in clients]


async def followers(service: Service, count: int) -> None:
    """Return when so many clients follow."""

    async def look() -> int:
        return len(tail_of(service)._followers)

    await eventually(look, lambda seen: seen == count)


def tail_of(service: Service) -> tail.Tail:
    app: Any = service.server.config.app
    found: tail.Tail = app.state.tail
    return found


async def test_an_event_is_told_with_its_number_its_type_and_the_object_of_the_feed(
    quiet: Service, subscriber: Caller, team: UUID
) -> None:
    async with listening(quiet.url, key=subscriber.key) as one:
        data = json.dumps({"text": "line\nbreak\r and \u2028 more", "snow": "☃"})
        (number,) = await append_events(quiet, fact("job.completed", team=team, data=data))
        await one.has(1)

    (shown,) = (await subscriber.http.get("/v1/events")).json()["events"]
    assert one.messages[0].event == shown
    assert one.messages[0][:2] == (str(number), "job.completed")
    assert one.retry == 2_000
    assert one.status == 200
    assert one.headers["content-type"].split(";")[0] == "text/event-stream"
    assert one.headers["cache-control"] == "no-cache, no-transform"
    assert one.headers["x-accel-buffering"] == "no"
    assert one.headers["x-request-id"]
    assert "connection" not in one.headers


async def test_a_stream_begins_now_and_says_where_that_is(quiet: Service, subscriber: Caller, team: UUID) -> None:
    before = await append_events(quiet, fact(team=team))
    for path in (STREAM, f"{STREAM}?after=latest"):
        async with listening(quiet.url, path, key=subscriber.key) as one:
            assert one.last_event_id == str(before[-1])
            before = await append_events(quiet, fact(team=team))
            assert await one.has(1) == before


async def test_whoever_resumes_misses_nothing_and_sees_nothing_twice(
    quiet: Service, subscriber: Caller, team: UUID
) -> None:
    seen: list[int] = []
    written: list[int] = []
    resume = None
    async with listening(quiet.url, key=subscriber.key):  # so that the newest events are at hand for the others
        for _ in range(12):
            written += await append_events(quiet, *(fact(team=team) for _ in range(7)), fact(team=uuid4()))
            async with listening(quiet.url, f"{STREAM}?after=0", key=subscriber.key, resume=resume) as one:
                written += await append_events(quiet, fact(team=team), fact(team=uuid4()))
                await one.has(3)
            seen += one.sequences
            resume = one.last_event_id
        async with listening(quiet.url, key=subscriber.key, resume=resume) as one:
            (last,) = await append_events(quiet, fact(team=team))
            await one.until(lambda one: last in one.sequences)
        seen += one.sequences

    mine = [
        row.sequence for row in await quiet.rows("SELECT sequence FROM events WHERE team_id = :t ORDER BY 1", t=team)
    ]
    assert seen == mine


async def test_a_client_far_behind_is_brought_up_from_the_database_and_goes_on_with_what_is_new(
    quiet: Service, subscriber: Caller, team: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "KEPT", 20)
    monkeypatch.setattr(tail, "PAGE", 30)
    async with AsyncExitStack() as stack:
        present = await stack.enter_async_context(listening(quiet.url, key=subscriber.key))
        for _ in range(10):
            await append_events(quiet, *(fact(team=team) for _ in range(30)), fact(team=uuid4()))
        late = [
            await stack.enter_async_context(listening(quiet.url, f"{STREAM}?after={after}", key=subscriber.key))
            for after in (0, 3, 150, 290)
        ]
        (last,) = await append_events(quiet, fact(team=team))
        mine = [
            row.sequence
            for row in await quiet.rows("SELECT sequence FROM events WHERE team_id = :t ORDER BY 1", t=team)
        ]
        for one, after in zip((present, *late), (0, 0, 3, 150, 290), strict=True):
            await one.until(lambda one: last in one.sequences)
            assert one.sequences == [number for number in mine if number > after]
        assert len(tail_of(quiet)._events) <= 20


async def test_a_page_that_comes_when_its_client_has_gone_on_is_thrown_away(
    quiet: Service, subscriber: Caller, team: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "KEPT", 20)
    monkeypatch.setattr(tail, "CATCH_UP_PAGE", 5)
    read_older, first = tail.Tail.read_older, Gate()

    async def held(self: Any, *asked: Any) -> Any:
        page = await read_older(self, *asked)
        if not first.reached.is_set():
            await first.hold()
        return page

    monkeypatch.setattr(tail.Tail, "read_older", held)
    written = await append_events(quiet, *(fact(team=team) for _ in range(60)))
    async with listening(quiet.url, f"{STREAM}?after={written[49]}", key=subscriber.key) as one:
        await first.reached.wait()
        assert await one.has(10) == written[50:], "the tail, which has begun meanwhile, has them too"
        written += await append_events(quiet, *(fact(team=team) for _ in range(30)))
        await eventually(lambda: asyncio.sleep(0, tail_of(quiet)._start >= written[60]))
        first.released.set()
        await one.until(lambda one: written[-1] in one.sequences)
        assert one.sequences == written[50:]


async def test_what_is_kept_in_memory_is_limited_by_its_size_too(
    quiet: Service, subscriber: Caller, team: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "KEPT_BYTES", 10_000)
    big = json.dumps({"text": "x" * 3_000})
    async with listening(quiet.url, key=subscriber.key) as one:
        written = await append_events(quiet, *(fact(team=team, data=big) for _ in range(9)))
        written += await append_events(quiet, fact(team=team, data=json.dumps({"text": "y" * 50_000})))
        written += await append_events(quiet, fact(team=team))
        assert await one.has(11) == written
        kept = tail_of(quiet)
        assert kept._bytes == sum(len(told.wire) for told in kept._events) <= 10_000
        assert kept.newest(written[-1])
        assert not kept.newest(written[0])


async def test_types_and_teams_are_filtered_alike_from_memory_and_from_the_database(
    quiet: Service, subscriber: Caller, team: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = await quiet.new_caller("operators", scopes=("ops",))
    async with (
        listening(quiet.url, f"{STREAM}?types=job.completed,budget.*", key=subscriber.key) as mine,
        listening(quiet.url, key=operator.key) as everything,
    ):
        kinds = ("job.completed", "job.failed", "budget.threshold")
        written = await append_events(quiet, *(fact(kind, team=each) for each in (team, uuid4()) for kind in kinds))
        assert await everything.has(6) == written
        assert await mine.has(2) == [written[0], written[2]]
    monkeypatch.setattr(tail, "KEPT", 1)
    await append_events(quiet, fact(team=uuid4()))
    async with listening(quiet.url, f"{STREAM}?types=job.completed,budget.*&after=0", key=subscriber.key) as again:
        assert await again.has(2) == mine.sequences


async def test_who_may_not_follow_is_told_so_before_anything_begins(quiet: Service, subscriber: Caller) -> None:
    reader = await quiet.new_caller("listeners", scopes=("read", "submit"))

    refused(await reader.http.get(STREAM), 403)
    async with httpx.AsyncClient(base_url=quiet.url, trust_env=False) as anyone:
        refused(await anyone.get(STREAM), 401)
    for query, headers, name in (
        ("types=x", {}, "types"),
        ("after=x", {}, "after"),
        ("after=7", {}, "after"),
        ("", {"Last-Event-ID": "x"}, "Last-Event-ID"),
        ("after=0", {"Last-Event-ID": "7"}, "after"),
    ):
        body = refused(await subscriber.http.get(f"{STREAM}?{query}", headers=headers), 400)
        assert set(body["details"]) == {name}


async def test_silence_is_broken_by_a_beat_that_carries_the_cursor_past_what_was_filtered_out(
    quiet: Service, subscriber: Caller, team: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "BEAT_SECONDS", 0.1)
    async with listening(quiet.url, f"{STREAM}?types=job.completed", key=subscriber.key) as one:
        await one.until(lambda one: one.comments == ["beat"] * 3)
        assert one.last_event_id == "0"
        passed = await append_events(quiet, fact("job.failed", team=team), fact("job.completed", team=uuid4()))
        await one.until(lambda one: one.last_event_id == str(passed[-1]))
        assert one.messages == []
        written = await append_events(quiet, fact("job.completed", team=team))
        assert await one.has(1) == written


async def test_a_nudge_that_is_lost_costs_seconds_only(quiet: Service, subscriber: Caller, team: UUID) -> None:
    async with listening(quiet.url, key=subscriber.key) as one:
        written = await append_events(quiet, fact(team=team), nudge=False)
        assert await one.has(1) == written


async def test_a_client_that_left_is_noticed_at_once(quiet: Service, subscriber: Caller) -> None:
    for _ in range(3):
        async with listening(quiet.url, key=subscriber.key):
            await followers(quiet, 1)
        began = time.monotonic()
        await followers(quiet, 0)
        assert time.monotonic() - began < 10


async def test_a_client_that_left_before_its_stream_began_is_taken_for_gone(quiet: Service) -> None:
    class Abandoned:
        """A request whose client has closed the connection by now."""

        def __init__(self, transport: asyncio.WriteTransport) -> None:
            self.transport = transport

        async def receive(self) -> dict[str, Any]:
            return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError(f"nobody is there to be sent {message}")

    address = urlsplit(quiet.url)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.close()
    await writer.wait_closed()
    scope: dict[str, Any] = {"type": "http", "app": quiet.server.config.app}

    async def identify() -> Any:
        raise AssertionError("it is not asked who somebody was")

    following = stream.EventStream(Request(scope), identify, 0, EventFilter())
    with pytest.raises(ClientDisconnect):
        await following(scope, Abandoned(writer.transport).receive, send)
    await followers(quiet, 0)


async def test_a_client_that_does_not_read_is_cut_off_and_holds_up_nobody(
    quiet: Service, subscriber: Caller, team: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "STALLED_SECONDS", 1.0)
    big = json.dumps({"text": "x" * 100_000})
    async with mute(quiet, subscriber) as silent, listening(quiet.url, key=subscriber.key) as one:
        await followers(quiet, 2)
        written = list[int]()
        for _ in range(10):
            written += await append_events(quiet, *(fact(team=team, data=big) for _ in range(10)))
        assert await one.has(100) == written, "the other client is told meanwhile"
        await followers(quiet, 1)
        received = await read_to_the_end(silent)
        assert len(received) < 9_000_000
        assert not received.endswith(b"\r\n0\r\n\r\n")

    async with listening(quiet.url, key=subscriber.key, resume=written[0] - 1) as again:
        assert await again.has(100) == written


async def test_a_key_that_is_revoked_ends_its_streams_within_five_seconds(
    quiet: Service, subscriber: Caller, team: UUID
) -> None:
    other = await quiet.new_caller("listeners", scopes=("subscribe",))
    ticket = await ticket_of(subscriber)
    async with (
        listening(quiet.url, key=subscriber.key) as one,
        listening(quiet.url, f"{STREAM}?ticket={ticket}") as by_ticket,
        listening(quiet.url, key=other.key) as stays,
    ):
        await revoke(quiet, subscriber)
        for _ in range(55):  # tenths of a second; while this process stands still, none goes by
            await asyncio.sleep(0.1)
            if one.ended and by_ticket.ended:
                break
        assert one.ended == by_ticket.ended == "whole"
        written = await append_events(quiet, fact(team=team))
        assert await stays.has(1) == written
        assert one.messages == by_ticket.messages == []
    refused(await subscriber.http.get(STREAM), 401)


async def test_a_key_that_loses_a_scope_sees_no_more_than_the_others_allow(
    quiet: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "IDENTIFY_SECONDS", 0.1)
    operator = await quiet.new_caller("operators", scopes=("ops", "subscribe"))
    own = await team_of(quiet, operator.key_id)
    async with listening(quiet.url, key=operator.key) as one:
        written = await append_events(quiet, fact(team=uuid4()), fact(team=own))
        await one.has(2)
        async with quiet.ctx.db.transaction() as tx:
            change = "UPDATE api_keys SET scopes = '{subscribe}' WHERE id = :id"
            await tx.execute(text(change), {"id": operator.key_id})
        await eventually(lambda: teams_followed(quiet), lambda teams: teams == [own])
        later = await append_events(quiet, fact(team=uuid4()), fact(team=own))
        assert await one.has(3) == [*written, later[1]]


async def test_many_streams_of_one_key_ask_for_it_together(
    quiet: Service, subscriber: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "IDENTIFY_SECONDS", 0.2)
    looked_up = 0
    find = type(quiet.ctx.db).reading

    @asynccontextmanager
    async def reading(self: Any) -> AsyncIterator[Any]:
        nonlocal looked_up
        looked_up += 1
        async with find(self) as connection:
            yield connection

    async with AsyncExitStack() as stack:
        for _ in range(30):
            await stack.enter_async_context(listening(quiet.url, key=subscriber.key))
        monkeypatch.setattr(type(quiet.ctx.db), "reading", reading)
        await asyncio.sleep(2)
        assert 1 <= looked_up <= 5, "one look-up a second for the key, and one every two seconds for the log"


async def test_a_ticket_opens_streams_for_a_minute_and_nothing_else(
    quiet: Service, subscriber: Caller, team: UUID
) -> None:
    quiet.ctx.clock = clock = SettableClock()
    answer = await subscriber.http.post("/v1/events/tickets")
    ticket = answer.json()["ticket"]
    assert set(answer.json()) == {"ticket", "expiresAt"}
    assert answer.headers["Cache-Control"] == "no-store"
    async with httpx.AsyncClient(base_url=quiet.url, trust_env=False) as anyone:
        refused(await anyone.get(f"/v1/events?ticket={ticket}"), 401)
        refused(await anyone.post(f"/v1/events/tickets?ticket={ticket}"), 401)
        refused(await anyone.get(f"/v2/jobs?ticket={ticket}"), 401)
        for wrong in ("", "x", ticket[:-2], ticket[4:], "A" * 75, f"{ticket}AAAA", "%C3%BC", "A" * 10_000):
            refused(await anyone.get(f"{STREAM}?ticket={wrong}"), 401)
        changed = ticket[:5] + ("A" if ticket[5] != "A" else "B") + ticket[6:]
        refused(await anyone.get(f"{STREAM}?ticket={changed}"), 401)
        clock.advance(58)
        async with listening(quiet.url, f"{STREAM}?ticket={ticket}") as one:
            clock.advance(3)
            refused(await anyone.get(f"{STREAM}?ticket={ticket}"), 401)
            await asyncio.sleep(stream.IDENTIFY_SECONDS + 0.5)  # by then the stream has asked for its key
            written = await append_events(quiet, fact(team=team), fact(team=uuid4()))
            assert await one.has(1) == written[:1], "a ticket stands for its key, which sees one team"


async def test_a_ticket_has_the_scopes_of_its_key(quiet: Service) -> None:
    job = await quiet.caller.accepted(**LATER)
    ticket = await ticket_of(quiet.caller)
    async with httpx.AsyncClient(base_url=quiet.url, trust_env=False) as anyone:
        refused(await anyone.get(f"{STREAM}?ticket={ticket}"), 403)
    async with listening(quiet.url, f"/v1/jobs/{job}/events/stream?after=0&ticket={ticket}") as one:
        await one.has(1)
        assert one.types == ["job.queued"]
    refused(await (await quiet.new_caller("tests", scopes=("submit",))).http.post("/v1/events/tickets"), 403)


async def test_tickets_outlive_a_change_of_the_secret_and_no_other_secret_makes_them(
    serve: Callable[..., Any], simulator: RunningSimulator
) -> None:
    first: Service = await serve(simulator, loops=False, secret_key="the-first-secret-of-this-test")
    ticket = await ticket_of(first.caller)
    job = await first.caller.accepted(**LATER)
    path = f"/v1/jobs/{job}/events/stream?after=0&ticket={ticket}"
    changed = {"secret_key": "the-second-secret-of-this-test", "previous_secret_key": "the-first-secret-of-this-test"}
    second: Service = await serve(simulator, loops=False, **changed)
    third: Service = await serve(simulator, loops=False, secret_key="the-second-secret-of-this-test")

    async with listening(second.url, path) as one:
        await one.has(1)
    refused(await third.caller.http.get(path), 401)


async def test_the_stream_of_a_job_ends_after_its_last_event_and_is_not_to_be_opened_again(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(hold=True)
    service: Service = await serve(simulator, loops=False)
    job, other = await held_job(service, simulator), await held_job(service, simulator)
    path = f"/v1/jobs/{job.id}/events/stream"
    key = service.caller.key
    async with (
        listening(service.url, f"{path}?after=0", key=key) as whole,
        listening(service.url, path, key=key) as now,
        listening(service.url, f"{path}?types=job.progress", key=key) as filtered,
        listening(service.url, f"/v1/jobs/{other.id}/events/stream", key=key) as stays,
    ):
        await tell(simulator, f"jobs/{job.upstream_id}/finish")
        for one in (whole, now, filtered):
            await one.until(lambda one: one.ended == "whole")
        assert stays.ended is None
        assert whole.types[:2] == ["job.queued", "job.dispatched"]
        assert whole.types[-1] == now.types[-1] == "job.completed"
        assert filtered.messages == []
        assert {message.event["data"]["id"] for message in whole.messages} == {job.id}

    for resume in (whole.last_event_id, None):
        async with listening(service.url, path, key=key, resume=resume) as again:
            assert again.status == 204
    async with listening(service.url, path, key=key, resume=whole.messages[0].id) as again:
        await again.until(lambda again: again.ended == "whole")
        assert again.messages == whole.messages[1:]


async def test_a_job_that_we_gave_up_and_that_completed_after_all_is_told_to_whoever_comes_back(quiet: Service) -> None:
    owner = await quiet.new_caller("tests", scopes=("submit", "read"))
    job = await owner.accepted(**LATER)
    assert (await owner.http.post(f"/v1/jobs/{job}/cancel")).status_code == 200
    await append_events(quiet, fact("job.completed", team=await team_of(quiet, owner.key_id), job=UUID(job)))

    path, resume = f"/v1/jobs/{job}/events/stream?after=0", None
    for types in (["job.queued", "job.cancelled"], ["job.completed"]):
        async with listening(quiet.url, path, key=owner.key, resume=resume) as one:
            await one.until(lambda one: one.ended == "whole")
        assert one.types == types
        resume = one.last_event_id
    async with listening(quiet.url, path, key=owner.key, resume=resume) as one:
        assert one.status == 204


async def test_a_stream_whose_events_are_not_kept_any_more_ends_and_the_next_one_is_told_why(
    quiet: Service, subscriber: Caller, team: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "BEGUN_BEFORE", 0)
    big = json.dumps({"text": "x" * 50_000})
    written = await append_events(quiet, *(fact(team=team, data=big) for _ in range(200)))
    day = quiet.ctx.now()
    async with mute(quiet, subscriber, f"{STREAM}?after=0") as slow:
        await followers(quiet, 1)
        (one,) = tail_of(quiet)._followers
        await eventually(lambda: told_to(one))
        async with quiet.ctx.db.transaction() as tx:
            await tx.execute(
                text("INSERT INTO forgotten_event_days (day, last_sequence, forgotten_at) VALUES (:day, :last, :now)"),
                {"day": day.date(), "last": written[150], "now": day},
            )
        received = await read_to_the_end(slow)
        assert received.endswith(b"\r\n0\r\n\r\n")
        assert 1 <= received.count(b"\nevent: ") < 150

    body = refused(await subscriber.http.get(STREAM, headers={"Last-Event-ID": str(written[0])}), 410)
    assert body["oldestCursor"] == str(written[150])
    async with listening(quiet.url, key=subscriber.key, resume=written[150]) as again:
        assert await again.has(49) == written[151:]


async def test_a_process_that_stops_ends_its_streams_and_is_not_held_up_by_clients_that_do_not_read(
    quiet: Service, subscriber: Caller, team: UUID
) -> None:
    big = json.dumps({"text": "x" * 100_000})
    async with (
        mute(quiet, subscriber),
        mute(quiet, subscriber, f"{STREAM}?types=job.failed"),
        listening(quiet.url, key=subscriber.key) as one,
    ):
        await followers(quiet, 3)
        for _ in range(5):
            await append_events(quiet, *(fact(team=team, data=big) for _ in range(10)))
        await one.has(50)
        began = time.monotonic()
        quiet.ctx.begin_closing()
        await one.until(lambda one: one.ended == "whole")
        assert time.monotonic() - began < 10
        await followers(quiet, 0)
        assert time.monotonic() - began < 20
        async with listening(quiet.url, key=subscriber.key) as late:
            await late.until(lambda late: late.ended == "whole")


async def test_a_database_that_goes_away_ends_no_stream(
    quiet: Service, subscriber: Caller, team: UUID, monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> None:
    monkeypatch.setattr(stream, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(stream, "IDENTIFY_SECONDS", 0.2)
    (name,) = [row.name for row in await quiet.rows("SELECT current_database() AS name")]
    async with (
        listening(quiet.url, key=subscriber.key) as one,
        listening(quiet.url, f"{STREAM}?after=0", key=subscriber.key),
    ):
        (first,) = await append_events(quiet, fact(team=team))
        await one.has(1)
        server = await asyncpg.connect(plain_url(postgres_url))
        try:
            await server.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
            await server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
            beats = len(one.comments)
            await one.until(lambda one: len(one.comments) > beats + 15)
            assert one.ended is None
        finally:
            await server.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")
            await server.close()
        (second,) = await append_events(quiet, fact(team=team))
        assert await one.has(2) == [first, second] == await all_sequences(quiet)


async def test_a_hundred_clients_that_come_back_at_once_do_not_exhaust_the_pool(
    serve: Callable[..., Any], simulator: RunningSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "KEPT", 10)
    service: Service = await serve(simulator, loops=False, pool_size=4)
    caller = await service.new_caller("listeners", scopes=("subscribe", "read"))
    team = await team_of(service, caller.key_id)
    written = await append_events(service, *(fact(team=team) for _ in range(300)))
    async with AsyncExitStack() as stack:

        async def come_back() -> Listener:
            return await stack.enter_async_context(listening(service.url, f"{STREAM}?after=0", key=caller.key))

        coming = [asyncio.create_task(come_back()) for _ in range(100)]
        assert (await caller.http.get("/v2/jobs")).status_code == 200
        for one in await asyncio.gather(*coming):
            assert await one.has(300, seconds=30) == written
