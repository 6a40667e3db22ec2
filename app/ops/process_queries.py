"""SQL of the processes: what each tells of itself, and what those have measured that are gone.

Times are the database's own, since those of several machines differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow

GONE: Final = UUID(int=0)
"""The row that sums up what processes have measured that are gone."""

FOLDED_KEPT_SECONDS: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRow:
    """What a process tells of itself. `loops` and `measures` are JSON text."""

    id: UUID
    host: str
    pid: int
    role: str
    version: str
    uptime_seconds: float
    pool_size: int
    pool_in_use: int
    loops: str
    measures: str


async def update_process(tx: AsyncConnection, row: ProcessRow) -> bool:
    """Write how a process is now; False where it has no row, or one that was folded."""
    return bool((await tx.execute(_UPDATE, asdict(row))).rowcount)


_UPDATE: Final = text(
    """
    UPDATE processes SET seen_at = clock_timestamp(), pool_size = :pool_size, pool_in_use = :pool_in_use,
        loops = CAST(:loops AS jsonb), measures = CAST(:measures AS jsonb)
    WHERE id = :id AND folded_at IS NULL
    """
)


async def insert_process(tx: AsyncConnection, row: ProcessRow) -> None:
    """Register a process."""
    await tx.execute(_INSERT, asdict(row))


_INSERT: Final = text(
    """
    INSERT INTO processes (
        id, host, pid, role, version, started_at, seen_at, pool_size, pool_in_use, loops, measures
    ) VALUES (
        :id, :host, :pid, :role, :version, clock_timestamp() - make_interval(secs => :uptime_seconds), clock_timestamp(),
        :pool_size, :pool_in_use, CAST(:loops AS jsonb), CAST(:measures AS jsonb)
    )
    """
)


async def find_measures(connection: AsyncConnection, process_id: UUID) -> str | None:
    """The measures of a process as its row has them, folded or not, as JSON text; None where there is no row."""
    statement = text("SELECT CAST(measures AS text) FROM processes WHERE id = :id")
    return (await connection.execute(statement, {"id": process_id})).scalar_one_or_none()


async def fold_processes(tx: AsyncConnection, *, unseen_seconds: float, leaving: UUID | None = None) -> int:
    """Add to the sum what was measured by processes that were not seen for so long, or that leave; return how many.

    A process that is about to tell of itself holds its row's lock, and is left alone. One process at a time folds, until
    its commit; the others have nothing to do here.
    """
    lock = text("SELECT pg_try_advisory_xact_lock(hashtext('framehook processes'))")
    if not (await tx.execute(lock)).scalar_one():
        return 0
    values = {"unseen_seconds": unseen_seconds, "leaving": leaving, "gone": GONE}
    folded = [row.measures for row in await tx.execute(_FOLD, values)]
    if folded:
        await tx.execute(_ADD, {"gone": GONE, "folded": folded})
    await tx.execute(_FORGET, {"seconds": FOLDED_KEPT_SECONDS})
    return len(folded)


_FOLD: Final = text(
    """
    UPDATE processes SET folded_at = clock_timestamp() WHERE id IN (
        SELECT id FROM processes
        WHERE folded_at IS NULL AND id <> :gone
            AND (id = CAST(:leaving AS uuid) OR seen_at < clock_timestamp() - make_interval(secs => :unseen_seconds))
        ORDER BY id FOR UPDATE SKIP LOCKED
    )
    RETURNING CAST(measures AS text) AS measures
    """
)

# Numbers of PostgreSQL are exact: whatever the order they are added in, a sum is never less than it was.
_SUMS: Final = (
    "SELECT key, sum(CAST(value AS numeric)) AS value FROM {} AS one, jsonb_each_text(one.measures) GROUP BY key"
)

_WITH_FOLDED: Final = """(
    SELECT CAST(folded AS jsonb) AS measures FROM unnest(CAST(:folded AS text[])) AS folded
    UNION ALL SELECT measures FROM processes WHERE id = :gone
)"""

_ADD: Final = text(
    f"""
    INSERT INTO processes (id, host, pid, role, version, started_at, seen_at, measures)
    SELECT :gone, '', 0, 'gone', '', clock_timestamp(), clock_timestamp(), coalesce(jsonb_object_agg(key, value), '{{}}')
    FROM ({_SUMS.format(_WITH_FOLDED)}) AS sums
    ON CONFLICT (id) DO UPDATE SET measures = excluded.measures, seen_at = excluded.seen_at
    """  # noqa: S608 - the only parts put in are constants of ours
)

_FORGET: Final = text("DELETE FROM processes WHERE folded_at < clock_timestamp() - make_interval(secs => :seconds)")


async def sum_measures(connection: AsyncConnection) -> dict[str, float]:
    """What all processes have measured, those that are gone too, by name and labels."""
    return {row.key: float(row.value) for row in await connection.execute(_SUM)}


_SUM: Final = text(_SUMS.format("(SELECT measures FROM processes WHERE folded_at IS NULL)"))


async def list_processes(connection: AsyncConnection, *, limit: int) -> Sequence[AnyRow]:
    """The processes that are alive, or were a moment ago, the oldest first; `loops` comes as JSON text."""
    return (await connection.execute(_LIST, {"gone": GONE, "limit": limit})).all()


_LIST: Final = text(
    """
    SELECT host, pid, role, version, started_at, seen_at, pool_size, pool_in_use, CAST(loops AS text) AS loops,
        CAST(extract(epoch FROM clock_timestamp() - seen_at) AS float8) AS unseen_seconds
    FROM processes WHERE folded_at IS NULL AND id <> :gone
    ORDER BY started_at, id LIMIT :limit
    """
)
