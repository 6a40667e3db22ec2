"""Bring a database to the schema of this version. Safe when several processes do it at once: they take turns."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from app import partitions
from app.db import Database


def alembic_config() -> Config:
    """Alembic's configuration with the migrations of this installation: inside the wheel's package, or beside it."""
    inside, beside = (folder / "migrations" for folder in Path(__file__).parents[:2])
    config = Config()
    config.set_main_option("script_location", str(inside if inside.is_dir() else beside).replace("%", "%%"))
    return config


def newest_revision() -> str:
    """The revision that this version of the code needs."""
    head = ScriptDirectory.from_config(alembic_config()).get_current_head()
    assert head is not None
    return head


async def current_revision(db: Database) -> str | None:
    """The revision that the database has; None if it was never migrated."""
    async with db.engine.connect() as connection:
        return await connection.run_sync(lambda sync: MigrationContext.configure(sync).get_current_revision())


async def upgrade(db: Database, revision: str = "head") -> None:
    """Run the missing migrations; on the newest schema, make the partitions of the next days."""
    await _run(db, lambda config: command.upgrade(config, revision))
    if await current_revision(db) != newest_revision():
        return
    async with db.transaction() as tx:
        await partitions.ensure(tx, datetime.now(UTC))


async def downgrade(db: Database, revision: str) -> None:
    """Take migrations back down to a revision, `base` for all of them."""
    await _run(db, lambda config: command.downgrade(config, revision))


async def _run(db: Database, step: Callable[[Config], None]) -> None:
    def run(connection: Connection) -> None:
        config = alembic_config()
        config.attributes["connection"] = connection
        step(config)

    direct = db.direct()
    try:
        async with direct.transactional.begin() as connection:
            await connection.run_sync(run)
    finally:
        await direct.close()
