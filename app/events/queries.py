"""SQL of the event log: append to it, read it in order, and remember what retention takes away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Final
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow
from app.statements import Statement


class NewEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A fact that is about to be appended. `data` is JSON text."""

    id: UUID
    at: datetime
    type: str
    team_id: UUID
    job_id: UUID | None
    data: str


async def append(tx: AsyncConnection, events: Sequence[NewEvent]) -> None:
    """Number events in their order and keep them. The last statement of its transaction.

    From here to the commit nobody else can append: a number is never given before all smaller ones are committed, or
    rolled back. So nothing may be done in between that could take time; a process that stops there is cut off by
    PostgreSQL (`db.STALLED_TRANSACTION_SECONDS`).
    """
    if not events:
        return
    await _APPEND.fetch(
        tx,
        {
            "ids": [event.id for event in events],
            "ats": [event.at for event in events],
            "types": [event.type for event in events],
            "team_ids": [event.team_id for event in events],
            "job_ids": [event.job_id for event in events],
            "datas": [event.data for event in events],
        },
    )


# The lock is a row of the join, so that no number is drawn before it is held.
_APPEND: Final = Statement(
    """
    WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock(hashtext('framehook events')))
    INSERT INTO events (sequence, id, at, type, team_id, job_id, data)
    SELECT nextval('event_numbers'), new.id, new.at, new.type, new.team_id, new.job_id, new.data
    FROM turn CROSS JOIN (
        SELECT id, at, type, team_id, job_id, CAST(data AS jsonb) AS data
        FROM unnest(
            CAST(:ids AS uuid[]), CAST(:ats AS timestamptz[]), CAST(:types AS text[]), CAST(:team_ids AS uuid[]),
            CAST(:job_ids AS uuid[]), CAST(:datas AS text[])
        ) WITH ORDINALITY AS event (id, at, type, team_id, job_id, data, place)
        ORDER BY place
    ) AS new
    """
)


async def find_event(connection: AsyncConnection, event_id: UUID, at: datetime) -> AnyRow | None:
    """One event by its id and time, with its `data` as text; None where it is past retention."""
    return await _FIND.fetch_one(connection, {"id": event_id, "at": at})


_FIND: Final = Statement("SELECT sequence, type, CAST(data AS text) AS data FROM events WHERE id = :id AND at = :at")


async def read_head(connection: AsyncConnection) -> AnyRow:
    """Between which numbers events are kept: those after `forgotten_through`, up to `head`; both are 0 in the beginning."""
    head = await _READ_HEAD.fetch_one(connection, {})
    assert head is not None
    return head


_READ_HEAD: Final = Statement(
    """
    SELECT forgotten_through, greatest((SELECT max(sequence) FROM events), forgotten_through) AS head
    FROM (SELECT coalesce(max(last_sequence), 0) AS forgotten_through FROM forgotten_event_days) AS forgotten
    """
)


async def list_events(
    connection: AsyncConnection,
    *,
    after: int,
    through: int,
    types: Sequence[str] | None,
    team_id: UUID | None,
    job_id: UUID | None,
    live: bool,
    limit: int,
) -> Sequence[AnyRow]:
    """Events between two numbers, in order. `types` are patterns with `*`; None stands for all types, teams, jobs.

    `live` leaves out what was done with test keys.
    """
    conditions = ["sequence > :after", "sequence <= :through"]
    parameters: dict[str, object] = {"after": after, "through": through, "limit": limit}
    if types is not None:
        conditions.append("type LIKE ANY(CAST(:types AS text[]))")
        parameters["types"] = [pattern.replace("*", "%") for pattern in types]
    if team_id is not None:
        conditions.append("team_id = :team_id")
        parameters["team_id"] = team_id
    if job_id is not None:
        conditions.append("job_id = :job_id")
        parameters["job_id"] = job_id
    if live:
        conditions.append(f"NOT {_IS_TEST}")
    statement = f"SELECT {EVENT_COLUMNS} FROM events WHERE {' AND '.join(conditions)} ORDER BY sequence LIMIT :limit"  # noqa: S608
    return (await connection.execute(text(statement), parameters)).all()


_IS_TEST: Final = "(team_id IN (SELECT id FROM teams WHERE test_of IS NOT NULL))"

EVENT_COLUMNS: Final = f"sequence, id, at, type, team_id, job_id, {_IS_TEST} AS is_test, CAST(data AS text) AS data"
"""What the event object is made of. JSON comes as text."""


async def forget_days(tx: AsyncConnection, partitions: Mapping[date, str], now: datetime) -> None:
    """Declare the events of these days, whose partitions are named, as gone: cursors before their last one are refused."""
    for day, partition in partitions.items():
        statement = f"""
            INSERT INTO forgotten_event_days (day, last_sequence, forgotten_at)
            SELECT :day, coalesce(max(sequence), 0), :now FROM {partition}
            ON CONFLICT (day) DO NOTHING
            """  # noqa: S608 - partitions are named by us
        await tx.execute(text(statement), {"day": day, "now": now})


async def list_forgotten_days(tx: AsyncConnection, before: datetime) -> set[date]:
    """The days that were declared gone before this time: whoever began to read them has ended by now."""
    statement = text("SELECT day FROM forgotten_event_days WHERE forgotten_at < :before")
    return {row.day for row in await tx.execute(statement, {"before": before})}
