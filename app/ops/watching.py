"""Who is at work, how far our readers of the log are, and whether webhooks come: for `/v1/status` and `/metrics` alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from app.clock import timestamp, timestamp_or_null
from app.context import Context
from app.db import AnyRow
from app.events.queries import read_head
from app.ops import process_queries, watch_queries

MOST_PROCESSES: Final = 200
MOST_RETRIED_TARGETS: Final = 10_000

LATE_TURNS: Final = 3
LATE_SECONDS: Final = 60.0
"""A loop is late that has had no turn for so many of its intervals and so many seconds."""

LOOKED_BACK: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSeen:
    """A loop of a process. `seconds_ago`: since its last turn ended or, where none has, since it began."""

    name: str
    every_seconds: float
    seconds_ago: float
    turn_seconds: float | None
    error: str | None
    error_seconds_ago: float | None

    @property
    def late(self) -> bool:
        """Whether it should have had a turn long since."""
        return self.seconds_ago > LATE_TURNS * self.every_seconds + LATE_SECONDS

    @property
    def failing(self) -> bool:
        """Whether its last turn failed: an error stays told of when it is long over."""
        return self.error_seconds_ago is not None and self.error_seconds_ago <= self.seconds_ago


@dataclass(frozen=True, slots=True)
class ProcessSeen:
    """A process that is alive or was a moment ago, as it told of itself."""

    row: AnyRow
    loops: tuple[LoopSeen, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderSeen:
    """A reader of the log: how many events it has yet to read, at most, and how old the first of them is."""

    name: str
    behind: int
    behind_seconds: float
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class LogSeen:
    """The number of the newest event, and who reads."""

    head: int
    readers: tuple[ReaderSeen, ...]


async def read_processes(ctx: Context) -> list[ProcessSeen]:
    """The processes on this database, the oldest first. Ages are by the database's clock, whatever the processes' are."""
    async with ctx.db.reading() as connection:
        rows = await process_queries.list_processes(connection, limit=MOST_PROCESSES)
    return [ProcessSeen(row, tuple(_loops(row))) for row in rows]


def _loops(row: AnyRow) -> list[LoopSeen]:
    told = msgspec.json.decode(row.loops, type=dict[str, dict[str, Any]])
    return [
        LoopSeen(
            name=name,
            every_seconds=loop["every"],
            seconds_ago=round(loop["ago"] + row.unseen_seconds, 3),
            turn_seconds=loop["seconds"],
            error=loop["error"],
            error_seconds_ago=None if loop["errorAgo"] is None else round(loop["errorAgo"] + row.unseen_seconds, 3),
        )
        for name, loop in sorted(told.items())
    ]


async def read_log(ctx: Context) -> LogSeen:
    """How far the log goes, and how far our readers of it are."""
    now = ctx.now()
    async with ctx.db.reading() as connection:
        readers = await watch_queries.list_readers(connection)
        head = (await read_head(connection)).head  # read last, so that nobody is ahead of it
    return LogSeen(head, tuple(_reader(row, head, now) for row in readers))


def _reader(row: AnyRow, head: int, now: datetime) -> ReaderSeen:
    waits = row.next_at is not None
    return ReaderSeen(
        name=row.name,
        behind=max(head - row.sequence, 0) if waits else 0,
        behind_seconds=max(round((now - row.next_at).total_seconds(), 3), 0.0) if waits else 0.0,
        updated_at=row.updated_at,
    )


async def read_webhooks(ctx: Context) -> dict[str, Any]:
    """When the last webhooks came, and how often a job's end became known by them, in the last hour."""
    async with ctx.db.reading() as connection:
        last = await watch_queries.find_last_webhooks(connection)
        ends = await watch_queries.sum_endings(connection, since=ctx.now() - LOOKED_BACK)
    told = ends.by_webhook + ends.by_poll
    return {
        "lastReceivedAt": timestamp_or_null(last.received_at),
        "lastAppliedAt": timestamp_or_null(last.applied_at),
        "endedByWebhook": ends.by_webhook,
        "endedByPoll": ends.by_poll,
        "endedByPollShare": round(ends.by_poll / told, 4) if told > 0 else None,
    }


async def read_oldest_retry(ctx: Context) -> float:
    """For how many seconds the oldest delivery that was tried before has been due; 0 if none is."""
    now = ctx.now()
    async with ctx.db.reading() as connection:
        due_at = await watch_queries.find_oldest_retry(connection, now=now, limit=MOST_RETRIED_TARGETS)
    return (now - due_at).total_seconds() if due_at else 0.0


def freshest(processes: Sequence[ProcessSeen]) -> dict[str, LoopSeen]:
    """Each loop as the process sees it that had a turn of it last."""
    found: dict[str, LoopSeen] = {}
    for loop in (loop for process in processes for loop in process.loops):
        if loop.name not in found or loop.seconds_ago < found[loop.name].seconds_ago:
            found[loop.name] = loop
    return found


def shape_process(process: ProcessSeen) -> dict[str, Any]:
    """A process as `/v1/status` tells of it."""
    row = process.row
    return {
        "host": row.host,
        "pid": row.pid,
        "role": row.role,
        "version": row.version,
        "startedAt": timestamp(row.started_at),
        "seenAt": timestamp(row.seen_at),
        "loops": [
            {
                "name": loop.name,
                "everySeconds": loop.every_seconds,
                "secondsAgo": loop.seconds_ago,
                "turnSeconds": loop.turn_seconds,
                "late": loop.late,
                "lastError": loop.error,
                "lastErrorSecondsAgo": loop.error_seconds_ago,
            }
            for loop in process.loops
        ],
    }


def shape_log(log: LogSeen) -> dict[str, Any]:
    """The same for the log."""
    return {
        "head": log.head,
        "readers": [
            {
                "name": reader.name,
                "behind": reader.behind,
                "behindSeconds": reader.behind_seconds,
                "updatedAt": timestamp(reader.updated_at),
            }
            for reader in log.readers
        ],
    }
