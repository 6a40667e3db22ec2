"""Group commit: calls of one kind that arrive while a transaction is in flight share the next one.

There is no timer: an idle service runs a batch of one at once. When many wait, a second transaction goes beside the first,
and a third: this process works while PostgreSQL does, instead of each waiting for the other.

A batch may run twice, after a conflict or after a COMMIT whose fate is not known, so what is batched must answer the same
when it is run again with the same items.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import OUTAGES, is_conflict, is_outage
from app.errors import Unavailable

Item = TypeVar("Item")
Answer = TypeVar("Answer")

LARGEST: Final = 200
"""Items in one transaction: enough to share a commit well, few enough to keep its locks short."""

ENOUGH: Final = 8
"""So many that wait are worth a transaction of their own beside those in flight."""

MOST_AT_ONCE: Final = 3
"""Transactions in flight: with two, both may be PostgreSQL's turn; with more than three, more share less and wait longer."""

LONGEST_QUEUE: Final = 5_000
RUNS: Final = 3


@dataclass(slots=True)
class _Call(Generic[Item, Answer]):
    item: Item
    answer: asyncio.Future[Answer]


class Batch(Generic[Item, Answer]):
    """One kind of call: its queue, and the tasks that empty it while there is anything in it.

    `begin` opens what the calls share: a transaction, or a connection to read from. `apply(tx, items)` returns one answer
    per item. An item that makes it raise fails alone: the batch is halved until only the culprit is left, and its caller
    alone sees the error. A caller that goes away does not undo its item.
    """

    def __init__(
        self,
        begin: Callable[[], AbstractAsyncContextManager[AsyncConnection]],
        apply: Callable[[AsyncConnection, Sequence[Item]], Awaitable[Sequence[Answer]]],
        *,
        largest: int = LARGEST,
        enough: int = ENOUGH,
        longest_queue: int = LONGEST_QUEUE,
        note_size: Callable[[float], object] = lambda _size: None,
    ) -> None:
        self._begin = begin
        self._apply = apply
        self._largest = largest
        self._enough = enough
        self._longest_queue = longest_queue
        self._note_size = note_size  # is told of each group how many shared it
        self._calls: deque[_Call[Item, Answer]] = deque()
        self._workers: set[asyncio.Task[None]] = set()

    async def __call__(self, item: Item) -> Answer:
        """Apply one item together with whatever else is waiting; return after the commit. Raises Unavailable when full."""
        if len(self._calls) >= self._longest_queue:
            raise Unavailable("Too many requests are waiting")
        call: _Call[Item, Answer] = _Call(item, asyncio.get_running_loop().create_future())
        self._calls.append(call)
        if not self._workers or (len(self._workers) < MOST_AT_ONCE and len(self._calls) >= self._enough):
            self._workers.add(asyncio.create_task(self._empty()))
        return await call.answer

    async def close(self) -> None:
        """Wait until everything that was accepted has been committed or refused."""
        while self._workers:
            await asyncio.wait(self._workers)

    async def _empty(self) -> None:
        worker = asyncio.current_task()
        assert worker is not None
        try:
            while self._calls and (len(self._workers) == 1 or len(self._calls) >= self._enough):
                group = [self._calls.popleft() for _ in range(min(len(self._calls), self._largest))]
                self._note_size(len(group))
                await self._settle(group)
        finally:
            # At once, so that whatever comes next has a worker or starts one.
            self._workers.remove(worker)

    async def _settle(self, group: Sequence[_Call[Item, Answer]]) -> None:
        try:
            answers = await self._run([call.item for call in group])
            answered = list(zip(group, answers, strict=True))
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to the callers, who are waiting for it
            if len(group) == 1 or is_outage(error):
                for call in group:
                    if not call.answer.done():
                        call.answer.set_exception(error)
                return
            middle = len(group) // 2
            await self._settle(group[:middle])
            await self._settle(group[middle:])
        else:
            for call, answer in answered:
                if not call.answer.done():
                    call.answer.set_result(answer)

    async def _run(self, items: Sequence[Item]) -> Sequence[Answer]:
        for run in range(1, RUNS + 1):
            try:
                async with self._begin() as tx:
                    return await self._apply(tx, items)
            except OUTAGES as error:
                if run == RUNS or not (is_conflict(error) or is_outage(error)):
                    raise
                await asyncio.sleep(0.05 * 2**run * random.random())  # noqa: S311 - jitter, not a secret
        raise AssertionError("the last run returns or raises")
