"""The kernel's rule 6: the event log's order is the order of commits, so that a cursor is a number and nothing is missed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from app import db, partitions
from app.clock import SettableClock
from app.errors import Gone, Invalid
from app.events.feed import EventFilter, Page, read
from app.events.queries import NewEvent, append
from app.jobs import dispatch, expire, reconcile
from app.ops.pruning import prune_once
from app.simulator.server import RunningSimulator
from app.statements import Connection
from tests.harness import Service, given_up, held_job, post_webhook, tell
from tests.locks import blocked
from tests.simulator.walks import sign
from tests.statements import listening

Serve = Callable[..., Any]
Simulate = Callable[..., RunningSimulator]

TEAM = UUID(int=7)
EVERYTHING = EventFilter()
IDLE_LIMIT = "idle_in_transaction_session_timeout"
GONE = "Events after this cursor are not kept any more"


def fact(kind: str = "job.queued", *, at: datetime | None = None, team: UUID = TEAM) -> NewEvent:
    at = at or datetime.now(UTC)
    return NewEvent(id=uuid7(), at=at, type=kind, team_id=team, job_id=None, data="{}")


async def appended(service: Service, *events: NewEvent) -> list[UUID]:
    async with service.ctx.db.transaction() as tx:
        await append(tx, events)
    return [each.id for each in events]


async def feed(service: Service, after: int | None = 0, asked: EventFilter = EVERYTHING, limit: int = 100) -> Page:
    async with service.ctx.db.reading() as connection:
        return await read(connection, after, asked, limit=limit)


async def refused_feed(service: Service, after: int) -> dict[str, Any] | None:
    """What a reader is told whose cursor is gone; None where it is not refused."""
    try:
        await feed(service, after)
    except Gone as gone:
        return gone.body
    return None


def ids(page: Page) -> list[UUID]:
    return [row.id for row in page.events]


@pytest.fixture
async def quiet(serve: Serve, simulate: Simulate) -> Service:
    """A service that does nothing by itself."""
    started: Service = await serve(simulate(hold=True), loops=False)
    return started


async def test_kernel_rule_6_a_writer_that_commits_late_cannot_slip_under_a_reader(quiet: Service) -> None:
    (first,) = await appended(quiet, fact())
    async with quiet.ctx.db.transaction() as tx:
        await tx.exec_driver_sql(f"SET LOCAL {IDLE_LIMIT} = 0")
        slow = fact()
        await append(tx, [slow])
        quick = asyncio.create_task(appended(quiet, fact()))
        await asyncio.wait({quick, asyncio.create_task(blocked(quiet, 1))}, return_when=asyncio.FIRST_COMPLETED)
        before = await feed(quiet)

    (later,) = await quick
    after = await feed(quiet, before.cursor)

    assert ids(before) == [first]
    assert ids(after) == [slow.id, later]
    assert not before.more
    assert not after.more


async def test_kernel_rule_6_a_writer_that_gives_up_leaves_no_gap_in_what_is_read(quiet: Service) -> None:
    async with given_up(quiet.ctx.db) as tx:
        await append(tx, [fact(), fact()])
    written = await appended(quiet, fact(), fact(), fact())

    page = await feed(quiet)

    assert ids(page) == written
    assert [row.sequence for row in page.events] == sorted(row.sequence for row in page.events)
    assert page.cursor == page.events[-1].sequence


async def test_kernel_rule_6_a_writer_that_stops_in_its_transaction_holds_the_log_up_for_a_limited_time(
    quiet: Service,
) -> None:
    others: list[UUID] = []

    async def stop_after_appending() -> None:
        async with quiet.ctx.db.transaction() as tx:
            limit = (await tx.exec_driver_sql(f"SHOW {IDLE_LIMIT}")).scalar_one()
            assert limit == f"{db.STALLED_TRANSACTION_SECONDS}s" == "15s"
            await append(tx, [fact()])
            await tx.exec_driver_sql(f"SET LOCAL {IDLE_LIMIT} = '1s'")  # the rest of it need not be waited for
            async with asyncio.timeout(60):
                others.extend(await appended(quiet, fact()))

    with pytest.raises(db.OUTAGES):
        await stop_after_appending()

    assert len(others) == 1
    assert ids(await feed(quiet)) == others


async def test_kernel_rule_6_eight_writers_at_once_are_read_without_gap_or_repetition(quiet: Service) -> None:
    seen: list[UUID] = []
    cursor = 0

    async def follow(count: int) -> None:
        nonlocal cursor
        while len(seen) < count:
            page = await feed(quiet, cursor, limit=7)
            seen.extend(ids(page))
            cursor = page.cursor

    async def write() -> list[UUID]:
        written = []
        for _ in range(10):
            written += await appended(quiet, fact(), fact())
        return written

    async with asyncio.timeout(240):
        following = asyncio.create_task(follow(160))
        writers = await asyncio.gather(*(write() for _ in range(8)))
        await following

    assert len(seen) == len(set(seen)) == 160
    for written in writers:
        assert [each for each in seen if each in set(written)] == written, "a writer's own events changed their order"


async def test_kernel_rule_6_appending_is_the_last_statement_of_every_transaction_that_does(
    serve: Serve, simulate: Simulate
) -> None:
    simulator = simulate(hold=True)
    service = await serve(simulator, loops=False, max_in_flight=20)
    service.ctx.clock = clock = SettableClock()
    with transactions(service) as seen:
        job, asked_after, told = [await held_job(service, simulator) for _ in range(3)]
        hint = job.says("completed")
        assert (await post_webhook(service, job.url, hint, None)).status_code == 200
        body = told.says("progress", progress=30)
        assert (await post_webhook(service, told.url, body, sign(body))).status_code == 200
        await tell(simulator, f"jobs/{asked_after.upstream_id}/finish", announce=False)
        clock.advance(3600)
        await reconcile.run_once(service.ctx)
        waiting = await service.caller.accepted(Prefer="respond-async")
        await service.caller.http.post(f"/v1/jobs/{waiting}/cancel")
        await service.caller.http.post(f"/v1/jobs/{waiting}/retry", headers={"Prefer": "respond-async"})
        await dispatch.run_once(service.ctx)
        clock.advance(30 * 3600)
        await expire.run_once(service.ctx)

    telling = [statements for statements in seen if any(map(appends, statements))]
    kinds = {row.type for row in await service.rows("SELECT DISTINCT type FROM events")}
    late = [statements for statements in telling if not appends(statements[-1]) or sum(map(appends, statements)) > 1]
    assert late == []
    assert len(telling) >= 9
    assert kinds >= {"job.queued", "job.dispatched", "job.processing", "job.completed", "job.cancelled", "job.failed"}


async def test_kernel_rule_6_a_cursor_advances_past_events_that_do_not_concern_its_reader(quiet: Service) -> None:
    other = UUID(int=8)
    wanted = await appended(quiet, fact("job.completed"))
    await appended(quiet, fact("job.failed"), fact("job.completed", team=other))

    mine = await feed(quiet, 0, EventFilter(team_id=TEAM, types=("job.com*",)))
    nothing = await feed(quiet, mine.cursor, EventFilter(team_id=TEAM, types=("job.com*",)))
    everything = await feed(quiet, mine.cursor)

    assert ids(mine) == wanted
    assert mine.cursor == nothing.cursor == everything.cursor
    assert everything.events == []


async def test_kernel_rule_6_a_cursor_of_days_that_were_dropped_is_gone_and_told_the_oldest_that_is_good(
    quiet: Service,
) -> None:
    now = quiet.ctx.now()
    async with quiet.ctx.db.transaction() as tx:
        await partitions.ensure(tx, now - timedelta(days=120), days=0)
    await appended(quiet, fact(at=now - timedelta(days=120)))
    middle = (await feed(quiet)).cursor
    kept = await appended(quiet, fact())
    quiet.ctx.clock = clock = SettableClock()

    while await prune_once(quiet.ctx):
        pass
    refusal = await refused_feed(quiet, 0)
    assert len(await quiet.rows("SELECT 1 FROM events")) == 2, "whoever reads them now was not refused"
    clock.advance(120)
    while await prune_once(quiet.ctx):
        pass

    assert len(await quiet.rows("SELECT 1 FROM events")) == 1
    assert refusal == await refused_feed(quiet, 0) == {"error": GONE, "oldestCursor": str(middle)}
    assert ids(await feed(quiet, middle)) == ids(await feed(quiet, None)) == kept


async def test_kernel_rule_6_a_cursor_that_no_event_has_reached_is_refused(quiet: Service) -> None:
    await appended(quiet, fact())
    head = (await feed(quiet)).cursor

    with pytest.raises(Invalid):
        await feed(quiet, head + 1)


def appends(statement: str) -> bool:
    return "INSERT INTO events" in statement


@contextmanager
def transactions(service: Service) -> Iterator[list[list[str]]]:
    """The statements of each transaction that was committed meanwhile."""
    running: dict[Connection, list[str]] = {}
    done: list[list[str]] = []

    def note(connection: Connection, statement: str, _parameters: tuple[Any, ...]) -> None:
        running.setdefault(connection, []).append(statement)

    run = Connection.execute

    async def execute(self: Connection, query: str, *arguments: Any, **options: Any) -> str:
        if query.startswith("BEGIN"):
            running[self] = []
        status: str = await run(self, query, *arguments, **options)
        if query == "COMMIT":
            done.append(running.pop(self))
        return status

    with listening(service.ctx.db, note), patch.object(Connection, "execute", execute):
        yield done
