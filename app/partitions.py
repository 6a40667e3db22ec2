"""Tables partitioned by day exist two weeks ahead. There is no default partition: a missing one must be seen, not filled."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.models.tables import METADATA

DAYS_AHEAD: Final = 14
ALARM_DAYS: Final = 3
DROP_WAIT_SECONDS: Final = 2

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


async def list_before(connection: AsyncConnection, time: datetime) -> list[tuple[str, date, str]]:
    """Partitions of days that ended before this time, oldest first, as (table, day, partition)."""
    rows = await connection.execute(_LIST_PARTITIONS, {"tables": list(TABLES)})
    found = [(row.table_name, datetime.strptime(row.day, "%Y%m%d").date(), row.name) for row in rows]  # noqa: DTZ007
    return sorted((entry for entry in found if entry[1] < time.astimezone(UTC).date()), key=lambda entry: entry[1:])


_LIST_PARTITIONS: Final = text(
    """
    SELECT parent.relname AS table_name, child.relname AS name, right(child.relname, 8) AS day
    FROM pg_inherits JOIN pg_class parent ON parent.oid = inhparent JOIN pg_class child ON child.oid = inhrelid
    WHERE parent.relname = ANY(CAST(:tables AS text[])) AND parent.relkind = 'p' AND pg_table_is_visible(parent.oid)
    """
)


async def drop(tx: AsyncConnection, name: str) -> None:
    """Drop a partition. Whoever reads its table is not made to wait behind us for long: we give up, to try again later."""
    await tx.execute(text(f"SET LOCAL lock_timeout = '{DROP_WAIT_SECONDS}s'"))
    await tx.execute(text(f"DROP TABLE {name}"))


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
