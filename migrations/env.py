"""Alembic's entry: on the connection that `app.migrate` hands over, else on the database that the settings name."""

from __future__ import annotations

import asyncio

from alembic import context
from alembic.runtime.environment import NameFilterParentNames, NameFilterType
from sqlalchemy import Connection, text

from app.config import load_settings
from app.context import open_database
from app.models.tables import METADATA
from app.partitions import TABLES


def is_ours(name: str | None, kind: NameFilterType, _parents: NameFilterParentNames) -> bool:
    """Leave daily partitions to `app.partitions`: their names end in a date."""
    parent, _, date = (name or "").rpartition("_")
    return not (kind == "table" and parent in TABLES and date.isdecimal())


def migrate(connection: Connection) -> None:
    """Run in the caller's transaction, one process after the other."""
    context.configure(connection=connection, target_metadata=METADATA, include_name=is_ours)
    with context.begin_transaction():
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('framehook migrations'))"))
        context.run_migrations()


async def migrate_by_settings() -> None:
    """What a plain `alembic upgrade head` does."""
    async with open_database(load_settings()) as database, database.transactional.begin() as connection:
        await connection.run_sync(migrate)


if context.is_offline_mode():
    context.configure(dialect_name="postgresql", target_metadata=METADATA, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
elif handed_over := context.config.attributes.get("connection"):
    migrate(handed_over)
else:
    asyncio.run(migrate_by_settings())
