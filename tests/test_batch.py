"""Group commit against a real PostgreSQL: who shares a transaction, who fails with whom, and what is run again."""

from __future__ import annotations

import asyncio
import functools
import operator
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.batch import ENOUGH, MOST_AT_ONCE, RUNS, Batch
from app.db import Database
from app.errors import Unavailable
from tests.harness import eventually
from tests.wires import PostgresWire

Apply = Callable[[AsyncConnection, Sequence[int]], Awaitable[list[int]]]


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    """A database with a table of numbers; its transactions can be told apart by `xmin`."""
    database = Database(database_url, pool_size=5)
    async with database.transaction() as tx:
        await tx.execute(text("CREATE TABLE numbers (number integer PRIMARY KEY, worth integer CHECK (worth <> 37))"))
    yield database
    await database.close()


async def insert(tx: AsyncConnection, items: Sequence[int]) -> list[int]:
    """Keep each number, the same when run again; answer with its negative."""
    await tx.execute(
        text(
            "INSERT INTO numbers (number, worth) SELECT n, n FROM unnest(CAST(:items AS integer[])) AS n"
            " ON CONFLICT (number) DO NOTHING"
        ),
        {"items": list(items)},
    )
    return [-item for item in items]


async def numbers(db: Database) -> list[int]:
    async with db.reading() as connection:
        return list((await connection.execute(text("SELECT number FROM numbers ORDER BY number"))).scalars())


async def transactions(db: Database) -> int:
    """How many transactions the kept numbers came in."""
    async with db.reading() as connection:
        return int((await connection.execute(text("SELECT count(DISTINCT xmin::text) FROM numbers"))).scalar_one())


class Held:
    """Inserts, but the first batch waits in its open transaction until it is let go. Knows what each run was given."""

    def __init__(self) -> None:
        self.runs: list[list[int]] = []
        self.entered = asyncio.Event()
        self.go = asyncio.Event()

    async def count(self) -> int:
        return len(self.runs)

    async def __call__(self, tx: AsyncConnection, items: Sequence[int]) -> list[int]:
        self.runs.append(list(items))
        self.entered.set()
        await self.go.wait()
        return await insert(tx, items)


async def start_all(batch: Batch[int, int], items: Sequence[int]) -> list[asyncio.Task[int]]:
    """Call for each, and return when all of them wait."""
    tasks = [asyncio.create_task(batch(item)) for item in items]
    await asyncio.sleep(0)
    return tasks


async def test_calls_that_arrive_while_a_transaction_is_in_flight_share_the_next(db: Database) -> None:
    held = Held()
    batch = Batch(db.transaction, held)

    first = await start_all(batch, [1])
    await held.entered.wait()
    rest = await start_all(batch, range(2, ENOUGH + 1))
    held.go.set()

    assert await asyncio.gather(*first, *rest) == [-item for item in range(1, ENOUGH + 1)]
    assert held.runs == [[1], list(range(2, ENOUGH + 1))]
    assert await transactions(db) == 2


async def test_when_enough_calls_wait_transactions_go_beside_the_one_in_flight_up_to_a_number(db: Database) -> None:
    held = Held()
    batch = Batch(db.transaction, held)

    tasks = await start_all(batch, [1])
    await held.entered.wait()
    for beside in range(1, MOST_AT_ONCE):
        tasks += await start_all(batch, range(100 * beside, 100 * beside + ENOUGH))
        await eventually(held.count, functools.partial(operator.eq, beside + 1))
    tasks += await start_all(batch, range(1000, 1000 + 2 * ENOUGH))
    assert len(batch._workers) == MOST_AT_ONCE
    held.go.set()

    assert await asyncio.gather(*tasks) == [-item for run in held.runs for item in run]
    assert [len(run) for run in held.runs] == [1, *[ENOUGH] * (MOST_AT_ONCE - 1), 2 * ENOUGH]
    assert await transactions(db) == MOST_AT_ONCE + 1
    assert await batch(500) == -500, "nobody is left to take it"


async def test_a_call_to_an_idle_batch_waits_for_nobody(db: Database) -> None:
    batch = Batch(db.transaction, insert)

    assert [await batch(item) for item in (1, 2, 3)] == [-1, -2, -3]
    assert await transactions(db) == 3


async def test_no_transaction_takes_more_than_the_largest_batch_and_every_answer_finds_its_caller(db: Database) -> None:
    held = Held()
    batch = Batch(db.transaction, held, largest=7)

    tasks = await start_all(batch, range(1, 31))
    held.go.set()

    assert await asyncio.gather(*tasks) == [-item for item in range(1, 31)]
    assert [len(run) for run in held.runs] == [7, 7, 7, 7, 2]
    assert await numbers(db) == list(range(1, 31))


async def test_one_bad_item_fails_alone_and_its_99_neighbours_succeed(db: Database) -> None:
    held = Held()
    batch = Batch(db.transaction, held)

    tasks = await start_all(batch, range(1, 101))
    held.go.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)

    failed = {item: answer for item, answer in enumerate(answers, 1) if isinstance(answer, BaseException)}
    assert list(failed) == [37]
    assert isinstance(failed[37], DBAPIError)
    assert "check constraint" in str(failed[37])
    assert [answer for answer in answers if answer is not failed[37]] == [-item for item in range(1, 101) if item != 37]
    assert await numbers(db) == [item for item in range(1, 101) if item != 37]


async def test_several_bad_items_fail_each_with_their_own_error(db: Database) -> None:
    async def refuse_odd(tx: AsyncConnection, items: Sequence[int]) -> list[int]:
        odd = [item for item in items if item % 2]
        if odd:
            raise ValueError(f"{odd[0]} is odd")
        return await insert(tx, items)

    answers = await asyncio.gather(
        *await start_all(Batch(db.transaction, refuse_odd), range(8)), return_exceptions=True
    )

    assert [str(answer) for answer in answers if isinstance(answer, ValueError)] == [
        f"{item} is odd" for item in (1, 3, 5, 7)
    ]
    assert await numbers(db) == [0, 2, 4, 6]


async def test_a_failure_stops_nothing_that_comes_later(db: Database) -> None:
    batch = Batch(db.transaction, insert)

    with pytest.raises(DBAPIError):
        await batch(37)

    assert await batch(38) == -38


@pytest.mark.parametrize("leaves", ["the one in flight", "the one that waits"])
async def test_a_caller_that_goes_away_does_not_undo_its_item(db: Database, leaves: str) -> None:
    held = Held()
    batch = Batch(db.transaction, held)
    (first,) = await start_all(batch, [1])
    await held.entered.wait()
    second, third = await start_all(batch, [2, 3])

    gone = first if leaves == "the one in flight" else second
    gone.cancel()
    await asyncio.wait([gone])
    held.go.set()

    assert await third == -3
    assert await numbers(db) == [1, 2, 3]
    assert gone.cancelled()


async def test_a_full_queue_is_unavailable_and_takes_nothing_away_from_those_in_it(db: Database) -> None:
    held = Held()
    batch = Batch(db.transaction, held, longest_queue=2)
    first = await start_all(batch, [1])
    await held.entered.wait()
    waiting = await start_all(batch, [2, 3])

    with pytest.raises(Unavailable) as refused:
        await asyncio.wait_for(batch(4), 30)

    assert refused.value.headers["Retry-After"].isdecimal()
    held.go.set()
    assert await asyncio.gather(*first, *waiting) == [-1, -2, -3]
    assert await batch(4) == -4


async def test_close_waits_until_everything_accepted_is_committed(db: Database) -> None:
    held = Held()
    batch = Batch(db.transaction, held, largest=2)
    tasks = await start_all(batch, range(1, 8))
    await held.entered.wait()

    closing = asyncio.create_task(batch.close())
    await asyncio.sleep(0)
    assert not closing.done()
    held.go.set()
    await closing

    assert await numbers(db) == list(range(1, 8))
    assert [task.result() for task in tasks] == [-item for item in range(1, 8)]


async def test_an_apply_that_answers_too_few_fails_its_callers_instead_of_leaving_them_to_wait(db: Database) -> None:
    async def answer_nobody(tx: AsyncConnection, items: Sequence[int]) -> list[int]:
        return []

    done, waiting = await asyncio.wait(await start_all(Batch(db.transaction, answer_nobody), [1, 2]), timeout=30)

    for task in waiting:
        task.cancel()
    assert not waiting
    assert all(task.exception() for task in done)


async def lock(tx: AsyncConnection, number: int) -> None:
    await tx.execute(text("UPDATE numbers SET worth = worth + 1 WHERE number = :number"), {"number": number})


async def test_a_deadlock_is_run_again(db: Database) -> None:
    await Batch(db.transaction, insert)(1)
    await Batch(db.transaction, insert)(2)
    both_hold_one = asyncio.Barrier(2)
    runs = {1: 0, 2: 0}

    def crosswise(first: int, second: int) -> Apply:
        async def apply(tx: AsyncConnection, items: Sequence[int]) -> list[int]:
            runs[first] += 1
            await tx.execute(text("SET LOCAL deadlock_timeout = '50ms'"))
            await lock(tx, first)
            if runs[first] == 1:
                await both_hold_one.wait()
            await lock(tx, second)
            return list(items)

        return apply

    answers = list(
        await asyncio.gather(Batch(db.transaction, crosswise(1, 2))(10), Batch(db.transaction, crosswise(2, 1))(20))
    )

    assert answers == [10, 20]
    assert sum(runs.values()) > 2, "there was no deadlock"
    async with db.reading() as connection:
        assert list((await connection.execute(text("SELECT worth FROM numbers ORDER BY number"))).scalars()) == [3, 4]


async def test_a_serialization_conflict_is_run_again_with_what_is_true_by_then(db: Database) -> None:
    await Batch(db.transaction, insert)(1)
    seen = []

    async def add_up(tx: AsyncConnection, items: Sequence[int]) -> list[int]:
        await tx.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        worth = (await tx.execute(text("SELECT worth FROM numbers WHERE number = 1"))).scalar_one()
        seen.append(worth)
        if len(seen) == 1:
            async with db.transaction() as other:
                await other.execute(text("UPDATE numbers SET worth = 100 WHERE number = 1"))
        await tx.execute(text("UPDATE numbers SET worth = :worth WHERE number = 1"), {"worth": worth + sum(items)})
        return [worth + sum(items)] * len(items)

    assert await Batch(db.transaction, add_up)(5) == 105
    assert seen == [1, 100]


async def test_a_conflict_that_never_ends_is_told_in_the_end(db: Database) -> None:
    runs = 0

    async def conflict(tx: AsyncConnection, items: Sequence[int]) -> list[int]:
        nonlocal runs
        runs += 1
        await tx.execute(text("DO $$ BEGIN RAISE EXCEPTION 'always' USING ERRCODE = '40001'; END $$"))
        return list(items)

    with pytest.raises(DBAPIError, match="always"):
        await Batch(db.transaction, conflict)(1)

    assert runs == RUNS


@pytest.mark.parametrize("moment", ["before the statement", "before the commit"])
async def test_a_connection_that_is_killed_in_the_middle_is_replaced_and_the_answer_is_right(
    db: Database, moment: str
) -> None:
    killed = 0

    async def kill_once(tx: AsyncConnection, items: Sequence[int]) -> list[int]:
        nonlocal killed
        pid = (await tx.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        answers = await insert(tx, items) if moment == "before the commit" else []
        if not killed:
            killed = pid
            async with db.reading() as other:
                await other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        return answers or await insert(tx, items)

    batch = Batch(db.transaction, kill_once)

    assert await asyncio.gather(*await start_all(batch, [1, 2, 3])) == [-1, -2, -3]
    assert killed
    assert await numbers(db) == [1, 2, 3]
    assert await transactions(db) == 1


async def test_a_commit_whose_answer_was_lost_is_run_again_and_answers_the_same(
    db: Database, database_url: str
) -> None:
    wire = PostgresWire(database_url)
    runs: list[Any] = []

    async def insert_and_look(tx: AsyncConnection, items: Sequence[int]) -> list[int]:
        there = (await tx.execute(text("SELECT count(*) FROM numbers"))).scalar_one()
        runs.append(there)
        answers = await insert(tx, items)
        if len(runs) == 1:
            wire.cut_in_commit()
        return answers

    async with wire.open() as url:
        over_the_wire = Database(url, pool_size=2)
        assert await Batch(over_the_wire.transaction, insert_and_look)(5) == -5
        await over_the_wire.close()

    assert wire.cuts == 1
    assert runs == [0, 1]
    assert await numbers(db) == [5]
