"""Who may follow a stream: for as long as the key is good, and what it may see; tickets, which stand for a key."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import text

from app import auth
from app.events import stream
from app.simulator.server import RunningSimulator
from app.teams.keys import revoke_key
from tests.events.streams import STREAM, tail_of
from tests.harness import Caller, FrozenClock, Service, eventually, refused
from tests.listening import append_events, fact, listening, team_of

LATER = {"Prefer": "respond-async"}


async def revoke(service: Service, caller: Caller) -> None:
    async with service.ctx.db.transaction() as tx:
        await revoke_key(tx, caller.key_id, service.ctx.now())


async def ticket_of(caller: Caller) -> str:
    answer = await caller.http.post("/v1/events/tickets")
    assert answer.status_code == 201, answer.text
    return str(answer.json()["ticket"])


async def teams_followed(service: Service) -> list[UUID | None]:
    """Whose events the clients are told: a team's each, or None for those of all."""
    clients: list[Any] = list(tail_of(service)._followers)
    return [one._asked.team_id for one in clients]


async def test_who_may_not_follow_is_told_so_before_anything_begins(quiet: Service, subscriber: Caller) -> None:
    reader = await quiet.new_caller("listeners", scopes=("read", "submit"))

    refused(await reader.http.get(STREAM), 403)
    async with httpx.AsyncClient(base_url=quiet.url, trust_env=False, timeout=60) as anyone:
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


async def test_a_key_that_is_revoked_ends_its_streams_within_five_seconds(
    quiet: Service, subscriber: Caller, team: UUID
) -> None:
    assert stream.IDENTIFY_SECONDS + auth.BELIEVED_SECONDS <= 5
    other = await quiet.new_caller("listeners", scopes=("subscribe",))
    ticket = await ticket_of(subscriber)
    async with (
        listening(quiet.url, key=subscriber.key) as one,
        listening(quiet.url, f"{STREAM}?ticket={ticket}") as by_ticket,
        listening(quiet.url, key=other.key) as stays,
    ):
        await revoke(quiet, subscriber)
        for each in (one, by_ticket):
            await each.until(lambda each: each.ended == "whole")
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
        began = time.monotonic()
        monkeypatch.setattr(type(quiet.ctx.db), "reading", reading)
        await asyncio.sleep(2)
        await eventually(lambda: asyncio.sleep(0, looked_up))
        most = 3 + 1.5 * (time.monotonic() - began)
        assert looked_up <= most, "one look-up a second for the key, and one every two seconds for the log"


async def test_a_ticket_opens_streams_for_a_minute_and_nothing_else(
    quiet: Service, subscriber: Caller, team: UUID
) -> None:
    quiet.ctx.clock = clock = FrozenClock()
    answer = await subscriber.http.post("/v1/events/tickets")
    ticket = answer.json()["ticket"]
    assert set(answer.json()) == {"ticket", "expiresAt"}
    assert answer.headers["Cache-Control"] == "no-store"
    async with httpx.AsyncClient(base_url=quiet.url, trust_env=False, timeout=60) as anyone:
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
    async with httpx.AsyncClient(base_url=quiet.url, trust_env=False, timeout=60) as anyone:
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
