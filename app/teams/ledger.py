"""What teams spend, exactly: reserved when a job is accepted, settled or released once when it is over.

The ledger's entries are the truth, and each balance is their sum at every commit. A budget is checked under the lock of
the balance's row, so that together with what is reserved nothing is accepted beyond it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow
from app.teams.queries import ledger as queries
from app.teams.queries.ledger import Ended, NewReserve

THRESHOLDS: Final = (100, 80)
"""Per cent of its budget that a team is told of, once a month each, the highest first."""

ESTIMATE: Final = 10
"""Credits that are reserved for a model of which neither its jobs nor the upstream's list say what it costs."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A job that is about to be accepted."""

    job_id: UUID
    team_id: UUID
    operation: str
    model: str


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why a job was not accepted, in credits."""

    required: int
    available: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """A team has reserved and spent a threshold of its budget, in per cent, by what this transaction did."""

    team_id: UUID
    month: date
    threshold: int
    budget: int
    reserved: int
    spent: int

    def shape(self) -> dict[str, Any]:
        """What subscribers are told of it."""
        return {
            "month": month_name(self.month),
            "threshold": self.threshold,
            "budget": self.budget,
            "reserved": self.reserved,
            "spent": self.spent,
        }


def month_of(time: datetime) -> date:
    """The month in which a job counts that was submitted at this time (UTC), as its first day."""
    return date(time.year, time.month, 1)


def month_name(month: date) -> str:
    """A month as it is shown: `2026-11`."""
    return f"{month:%Y-%m}"


async def reserve(
    tx: AsyncConnection, account: str, jobs: Sequence[Wanted], now: datetime
) -> tuple[dict[UUID, Shortage], list[Crossing]]:
    """Reserve what these jobs will most likely cost at an upstream account, for teams that have a budget, as far as it goes.

    Returns the jobs that do not fit, which must not be accepted, and the thresholds that were crossed. The balances are
    locked until the commit. A job that has its reserve already, because this runs again, keeps it.
    """
    if not jobs:
        return {}, []
    month = month_of(now)
    balances = {row.team_id: row for row in await queries.lock_balances(tx, {job.team_id for job in jobs}, month)}
    limited = [job for job in jobs if job.team_id in balances]
    if not limited:
        return {}, []
    estimates = await queries.estimate(tx, account, {(job.operation, job.model) for job in limited}, default=ESTIMATE)
    known = await queries.list_reserved(tx, [job.job_id for job in limited])
    left = {team_id: row.budget - row.reserved - row.spent for team_id, row in balances.items()}
    short: dict[UUID, Shortage] = {}
    fitting: list[NewReserve] = []
    for job in limited:
        credits_ = estimates[job.operation, job.model]
        if job.job_id in known:
            continue
        if credits_ > left[job.team_id]:
            short[job.job_id] = Shortage(credits_, max(left[job.team_id], 0))
            continue
        left[job.team_id] -= credits_
        fitting.append(NewReserve(job.job_id, job.team_id, job.operation, job.model, credits_))
    changed = await queries.insert_reserves(tx, fitting, month=month, now=now)
    return short, await _crossings(tx, changed)


async def settle(tx: AsyncConnection, jobs: Sequence[Ended], now: datetime) -> list[Crossing]:
    """Settle jobs that completed at what they cost, and release what was reserved for the others, once each.

    The jobs' rows are held by this transaction. A job that completes after all, when its reserve was released, is settled.
    Returns the thresholds that were crossed.
    """
    return await _crossings(tx, await queries.insert_endings(tx, jobs, now=now)) if jobs else []


async def _crossings(tx: AsyncConnection, balances: Collection[AnyRow]) -> list[Crossing]:
    """Which thresholds these balances crossed that their teams were not told of yet; they are from now on."""
    crossings = [found for row in balances if (found := _crossing(row)) is not None]
    await queries.mark_told(tx, {(each.team_id, each.month): each.threshold for each in crossings})
    return crossings


def _crossing(row: AnyRow) -> Crossing | None:
    if row.budget is None:
        return None
    used = row.reserved + row.spent
    threshold = next((each for each in THRESHOLDS if used * 100 >= row.budget * each), 0)
    if threshold <= row.told:
        return None
    return Crossing(
        team_id=row.team_id,
        month=row.month,
        threshold=threshold,
        budget=row.budget,
        reserved=row.reserved,
        spent=row.spent,
    )
