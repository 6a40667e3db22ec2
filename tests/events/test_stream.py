"""Streams: each event once and in order across connections, from memory and from the database."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from app.events import stream, tail
from app.simulator.server import RunningSimulator
from tests.events.streams import STREAM, followers, mute, read_to_the_end, tail_of
from tests.harness import Caller, Service, eventually, held_job, refused, tell
from tests.listening import append_events, fact, listening, team_of
from tests.sources import Gate

LATER = {"Prefer": "respond-async"}


async def told_to(one: Any) -> int:
    """How many events were written to a client."""
    return int(one._event_count)


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
        kept = tail_of(quiet)  # which may come later than what the client has read from the database
        await eventually(lambda: asyncio.sleep(0, kept.newest(written[-1])))
        assert kept._bytes == sum(len(told.wire) for told in kept._events) <= 10_000
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


async def test_silence_is_broken_by_a_beat_that_carries_the_cursor_past_what_was_filtered_out(
    quiet: Service, subscriber: Caller, team: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "BEAT_SECONDS", 0.1)
    async with listening(quiet.url, f"{STREAM}?types=job.completed", key=subscriber.key) as one:
        await one.until(lambda one: len(one.comments) >= 3)
        assert set(one.comments) == {"beat"}
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
