"""SQL of finding deliveries, newest first, by whatever is known of them: along one index, and no further than a budget."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow
from app.deliveries.queries.history import DELIVERY

BUDGET: Final = 5_000
"""So many deliveries are looked at for one page."""

MOST_SOURCES: Final = 10_000
"""A page is merged from so many teams or subscriptions at most."""

LAST: Final = UUID(int=2**128 - 1)
"""An id that all others are before. A condition that there may or may not be would keep the planner from the index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """What deliveries are looked for; None stands for any."""

    job_id: UUID | None = None
    subscription_id: UUID | None = None
    team_id: UUID | None = None
    status: str | None = None
    event_type: str | None = None

    @property
    def conditions(self) -> dict[str, Any]:
        """Columns, and what they must be."""
        return {column: value for column, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class Found:
    """A page of deliveries. `looked_to`: older ones than this were not looked at, though there are fewer than asked for."""

    rows: Sequence[AnyRow]
    looked_to: UUID | None = None


@dataclass(frozen=True, slots=True)
class _Way:
    """Where to look: a condition that an index serves in the order of ids, for each of `sources` where it names `source`.

    `covers` are the columns that it holds to what is sought. What it does not cover is sought among those looked at.
    """

    condition: str
    covers: tuple[str, ...] = ()
    sources: tuple[UUID, ...] = ()

    def is_exact(self, sought: Sought) -> bool:
        """Whether all that lies on this way is wanted: then no more is looked at than a page holds."""
        return sought.conditions.keys() <= set(self.covers)


async def list_found(connection: AsyncConnection, sought: Sought, *, before: UUID | None, limit: int) -> Found:
    """What is sought, newest first, older than the delivery that `before` names."""
    parameters = sought.conditions | {"before": before or LAST, "limit": limit, "budget": BUDGET}
    if sought.status == "pending" and sought.job_id is None and await _are_few_pending(connection):
        return Found((await connection.execute(text(_page(_PENDING, sought)), parameters)).all())
    ways = await _choose(connection, sought)
    sources = [source for way in ways for source in way.sources]
    each = max(limit, BUDGET // max(len(sources), 1))
    parameters |= {"sources": sources, "each": each, "skipped": each - 1}
    looked_at = " UNION ALL ".join(_along(way, _LOOK_AT_FEW if way.is_exact(sought) else _LOOK) for way in ways)
    rows = (await connection.execute(text(_page(looked_at, sought)), parameters)).all()
    if len(rows) == limit and len(ways) == 1 and not sources:
        return Found(rows)
    reach = await _find_reach(connection, [way for way in ways if not way.is_exact(sought)], parameters)
    # Where one of several sources was not looked at further back, the others' older deliveries have to wait too.
    within = [row for row in rows if reach is None or row.id >= reach]
    return Found(within, reach if len(within) < limit else None)


async def _find_reach(connection: AsyncConnection, ways: Sequence[_Way], values: Mapping[str, Any]) -> UUID | None:
    """The newest of the places where looking ended before these ways did."""
    if not ways:
        return None
    ends = " UNION ALL ".join(_along(way, _REACH) for way in ways)
    statement = text(f"SELECT id FROM ({ends}) AS d ORDER BY id DESC LIMIT 1")  # noqa: S608 - all parts are ours
    reach: UUID | None = await connection.scalar(statement, values)
    return reach


async def _choose(connection: AsyncConnection, sought: Sought) -> Sequence[_Way]:
    """The narrowest ways. Without a filter that an index knows it goes through all deliveries."""
    if sought.job_id is not None:
        return [_Way("d.job_id = :job_id", ("job_id",))]
    if sought.subscription_id is not None and sought.status == "undelivered":
        kept = "d.subscription_id = :subscription_id AND d.status = 'undelivered'"
        return [_Way(kept, ("subscription_id", "status"))]
    if sought.subscription_id is not None:
        return [_Way("d.subscription_id = :subscription_id", ("subscription_id",))]
    if sought.status == "undelivered":
        teams = (sought.team_id,) if sought.team_id else await _list_ids(connection, _TEAMS, {})
        return [_Way("d.team_id = source.id AND d.status = 'undelivered'", ("team_id", "status"), teams)]
    if sought.team_id is not None:
        subscriptions = await _list_ids(connection, _SUBSCRIPTIONS, {"team_id": sought.team_id})
        own = _Way("d.subscription_id = source.id", ("team_id",), subscriptions)
        return [own, _Way("d.subscription_id IS NULL")]  # callbacks, which no index knows by team
    return [_Way("true")]


async def _list_ids(connection: AsyncConnection, statement: str, values: Mapping[str, Any]) -> tuple[UUID, ...]:
    rows = await connection.execute(text(statement), {**values, "limit": MOST_SOURCES})
    return tuple(row.id for row in rows)


_TEAMS: Final = "SELECT id FROM teams ORDER BY id DESC LIMIT :limit"
_SUBSCRIPTIONS: Final = "SELECT id FROM subscriptions WHERE team_id = :team_id ORDER BY id DESC LIMIT :limit"


async def _are_few_pending(connection: AsyncConnection) -> bool:
    """Whether all that are pending can be looked at: no index has them in the order of their ids."""
    count: int = await connection.scalar(_COUNT_PENDING, {"most": BUDGET + 1})
    return count <= BUDGET


_COUNT_PENDING: Final = text(
    """
    SELECT count(*) FROM (
        SELECT 1 FROM deliveries WHERE due_at IS NOT NULL ORDER BY retrying, target, due_at LIMIT :most
    ) AS few
    """
)

_PENDING: Final = f"""
    SELECT * FROM (
        SELECT {DELIVERY} FROM deliveries d WHERE d.due_at IS NOT NULL ORDER BY retrying, target, due_at LIMIT :budget
    ) AS d WHERE d.id < :before
    """  # noqa: S608 - the part is ours

_LOOK_AT_FEW: Final = (
    f"SELECT {DELIVERY} FROM deliveries d WHERE {{}} AND d.id < :before ORDER BY d.id DESC LIMIT :limit"  # noqa: S608
)
_LOOK: Final = f"SELECT {DELIVERY} FROM deliveries d WHERE {{}} AND d.id < :before ORDER BY d.id DESC LIMIT :each"  # noqa: S608
_REACH: Final = "SELECT d.id FROM deliveries d WHERE {} AND d.id < :before ORDER BY d.id DESC OFFSET :skipped LIMIT 1"


def _along(way: _Way, look: str) -> str:
    """A look along a way, for each of its sources."""
    part = f"({look.format(way.condition)})"
    if "source.id" not in way.condition:
        return part
    sources = "unnest(CAST(:sources AS uuid[])) AS source (id)"
    return f"(SELECT d.* FROM {sources} CROSS JOIN LATERAL {part} AS d)"  # noqa: S608 - all parts are ours


def _page(looked_at: str, sought: Sought) -> str:
    wanted = " AND ".join(f"d.{column} = :{column}" for column in sought.conditions) or "true"
    return f"SELECT * FROM ({looked_at}) AS d WHERE {wanted} ORDER BY d.id DESC LIMIT :limit"  # noqa: S608


async def list_targets(connection: AsyncConnection, subscription_ids: Collection[UUID]) -> dict[UUID, AnyRow]:
    """What these subscriptions are called and where they lead, deleted ones too."""
    statement = text(
        """
        SELECT id, url, description, deleted_at, disabled_at FROM subscriptions
        WHERE id = ANY(CAST(:ids AS uuid[]))
        """
    )
    return {row.id: row for row in await connection.execute(statement, {"ids": list(subscription_ids)})}


async def list_last_attempts(connection: AsyncConnection, since: Mapping[UUID, datetime]) -> dict[UUID, AnyRow]:
    """The last attempt of each of these deliveries. The times only spare the look into partitions of earlier days."""
    rows = await connection.execute(_LIST_LAST, {"ids": list(since), "sinces": list(since.values())})
    return {row.delivery_id: row for row in rows}


_LIST_LAST: Final = text(
    """
    SELECT last.delivery_id, last.at, last.status, last.error, last.seconds
    FROM unnest(CAST(:ids AS uuid[]), CAST(:sinces AS timestamptz[])) AS asked (id, since)
    CROSS JOIN LATERAL (
        SELECT delivery_id, at, status, error, seconds FROM attempts
        WHERE delivery_id = asked.id AND at >= asked.since ORDER BY at DESC, id DESC LIMIT 1
    ) AS last
    """
)
