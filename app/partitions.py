"""Tables partitioned by day exist two weeks ahead. There is no default partition: a missing one must be seen, not filled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import sqlstate
from app.models.tables import METADATA

DAYS_AHEAD: Final = 14
ALARM_DAYS: Final = 3
DROP_WAIT_SECONDS: Final = 2
_LOCK_NOT_AVAILABLE: Final = "55P03"

TABLES: Final = tuple(
    sorted(name for name, table in METADATA.tables.items() if table.dialect_options["postgresql"]["partition_by"])
)


def partition_name(table: str, day: datetime) -> str:
    """The partition that holds a UTC day."""
    return f"{table}_{day:%Y%m%d}"


async def ensure(tx: AsyncConnection, now: datetime, *, days: int = DAYS_AHEAD) -> int:
    """Make the missing partitions from yesterday to `days` ahead; return how many those were. Safe in several processes."""
    missing = await list_missing(tx, now, days=days)
    if not missing:
        return 0
    await lock(tx)
    missing = await list_missing(tx, now, days=days)
    for table, day in missing:
        name, end = partition_name(table, day), day + timedelta(days=1)
        # Made apart and attached: that takes a weaker lock on the parent than CREATE TABLE … PARTITION OF does.
        await tx.execute(text(f"CREATE TABLE {name} (LIKE {table} INCLUDING ALL)"))
        await tx.execute(
            text(
                f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{day:%F} 00:00Z') TO ('{end:%F} 00:00Z')"
            )
        )
    return len(missing)


@dataclass(frozen=True, slots=True, order=True)
class Partition:
    """A day of a table."""

    day: date
    name: str
    table: str


class PartitionInUse(Exception):
    """A partition cannot be dropped now: somebody is using it."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is in use")
        self.name = name


async def list_before(connection: AsyncConnection, times: Mapping[str, datetime]) -> list[Partition]:
    """Partitions of days that ended before the times given for their tables, oldest first."""
    rows = await connection.execute(_LIST_PARTITIONS, {"tables": list(times)})
    found = [Partition(datetime.strptime(row.day, "%Y%m%d").date(), row.name, row.table_name) for row in rows]  # noqa: DTZ007
    return sorted(each for each in found if each.day < times[each.table].astimezone(UTC).date())


_LIST_PARTITIONS: Final = text(
    """
    SELECT parent.relname AS table_name, child.relname AS name, right(child.relname, 8) AS day
    FROM pg_inherits JOIN pg_class parent ON parent.oid = inhparent JOIN pg_class child ON child.oid = inhrelid
    WHERE parent.relname = ANY(CAST(:tables AS text[])) AND parent.relkind = 'p' AND pg_table_is_visible(parent.oid)
    """
)


async def measure(connection: AsyncConnection, names: Sequence[str]) -> dict[str, tuple[int | None, int]]:
    """How many rows each of these partitions has, as PostgreSQL estimates (None: it never counted), and how many bytes."""
    rows = await connection.execute(_MEASURE, {"names": list(names)})
    return {row.name: (None if row.row_count < 0 else row.row_count, row.byte_count) for row in rows}


_MEASURE: Final = text(
    """
    SELECT relname AS name, CAST(reltuples AS bigint) AS row_count, pg_total_relation_size(oid) AS byte_count
    FROM pg_class WHERE relname = ANY(CAST(:names AS text[])) AND relkind = 'r' AND pg_table_is_visible(oid)
    """
)


async def drop(tx: AsyncConnection, name: str) -> None:
    """Drop a partition. Whoever reads its table is not made to wait behind us for long: we give up, to try again later.

    Raises PartitionInUse then.
    """
    await tx.execute(text(f"SET LOCAL lock_timeout = '{DROP_WAIT_SECONDS}s'"))
    try:
        await tx.execute(text(f"DROP TABLE {name}"))
    except DBAPIError as error:
        if sqlstate(error) != _LOCK_NOT_AVAILABLE:
            raise
        raise PartitionInUse(name) from None


async def lock(tx: AsyncConnection) -> None:
    """Make and drop partitions in one process at a time, until the commit."""
    await tx.execute(text("SELECT pg_advisory_xact_lock(hashtext('framehook partitions'))"))


async def count_days_ahead(connection: AsyncConnection, now: datetime) -> int:
    """For how many days after today every table has its partition, at most `DAYS_AHEAD`; -1 where that of today lacks."""
    today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    missing = await list_missing(connection, now, days=DAYS_AHEAD)
    return min(((day - today).days - 1 for _, day in missing if day >= today), default=DAYS_AHEAD)


async def list_missing(tx: AsyncConnection, now: datetime, *, days: int) -> list[tuple[str, datetime]]:
    """The (table, day) pairs from yesterday to `days` ahead that have no partition."""
    today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    wanted = {
        partition_name(table, day): (table, day)
        for table in TABLES
        for day in (today + timedelta(days=offset) for offset in range(-1, days + 1))
    }
    rows = await tx.execute(
        text(
            """
            SELECT name FROM unnest(CAST(:names AS text[])) AS name
            WHERE NOT EXISTS (SELECT 1 FROM pg_class WHERE relname = name AND pg_table_is_visible(oid))
            """
        ),
        {"names": list(wanted)},
    )
    return sorted(wanted[row.name] for row in rows)
