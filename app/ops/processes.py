"""Tell the database how this process is and what it has measured, so that any process can tell it of all.

What was measured is in exactly one place: in the row of its process, or in the sum of those that are gone. So totals
never go back, whoever dies.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import Final, Literal
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import QueuePool

from app.clock import new_id
from app.context import Context
from app.ops import process_queries as queries
from app.ops.process_queries import ProcessRow
from app.version import version

Role = Literal["serve", "worker"]

EVERY_SECONDS: Final = 5.0
UNSEEN_SECONDS: Final = 60.0
"""A process that was not seen for so long is taken for gone."""


class Presence:
    """One process, as the others see it.

    A row that was folded while its process was only slow is part of the sum: from there on the process goes by another id
    and tells what it has measured since. How much of it is in the sum, the folded row says, even where this process does
    not know whether the last thing it wrote was ever committed.
    """

    def __init__(self, ctx: Context, role: Role) -> None:
        self._ctx = ctx
        self._role = role
        self._began = time.monotonic()
        self.id: UUID = new_id()
        self._counted: Mapping[str, float] = {}  # in the sum already, from before this id
        self._written: Mapping[str, float] | None = None  # under this id, as far as is known

    async def tell(self) -> int:
        """Write this process's row, and fold those of others that are gone. Returns 0: there is nothing more to do."""
        await self._write()
        async with self._ctx.db.transaction() as tx:
            await queries.fold_processes(tx, unseen_seconds=UNSEEN_SECONDS)
        return 0

    async def leave(self) -> None:
        """Tell for the last time, and be counted among those that are gone."""
        await self._write()
        async with self._ctx.db.transaction() as tx:
            await queries.fold_processes(tx, unseen_seconds=UNSEEN_SECONDS, leaving=self.id)

    async def _write(self) -> None:
        measured = self._ctx.measures.sums()
        async with self._ctx.db.transaction() as tx:
            new = _less(measured, self._counted)
            if not await queries.update_process(tx, self._row(new)):
                await self._begin_anew(tx)
                new = _less(measured, self._counted)
                await queries.insert_process(tx, self._row(new))
        self._written = new

    async def _begin_anew(self, tx: AsyncConnection) -> None:
        """Go by another id where this one was folded. Without a row it was never there, or is long forgotten."""
        found = await queries.find_measures(tx, self.id)
        folded = self._written if found is None else msgspec.json.decode(found, type=dict[str, float])
        if folded is not None:
            self._counted = {name: self._counted.get(name, 0) + value for name, value in folded.items()}
            self._written, self.id = None, new_id()

    def _row(self, measures: Mapping[str, float]) -> ProcessRow:
        pool = self._ctx.db.engine.pool
        assert isinstance(pool, QueuePool)
        loops = {name: turns.told() for name, turns in self._ctx.measures.loops.items()}
        return ProcessRow(
            id=self.id,
            host=socket.gethostname(),
            pid=os.getpid(),
            role=self._role,
            version=version(),
            uptime_seconds=time.monotonic() - self._began,
            pool_size=pool.size(),
            pool_in_use=max(pool.checkedout() - 1, 0),  # one of them is held for writing this
            loops=msgspec.json.encode(loops).decode(),
            measures=msgspec.json.encode(measures).decode(),
        )


def _less(measured: Mapping[str, float], counted: Mapping[str, float]) -> dict[str, float]:
    """What was measured beyond what is counted."""
    return {name: new for name, value in measured.items() if (new := value - counted.get(name, 0)) > 0}
