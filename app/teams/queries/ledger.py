"""SQL of the ledger: balances under their locks, and entries that are made once."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime
from typing import Final
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.clock import new_id
from app.db import AnyRow, recordset
from app.statements import Statement

HISTORY: Final = 20
"""So many completed jobs of a model say what the next one costs: as much as the dearest of them."""


class NewReserve(msgspec.Struct, frozen=True):
    """Credits that are kept for a job until it is over."""

    job_id: UUID
    team_id: UUID
    operation: str
    model: str
    credits: int


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """A job that is over. `credits` is what it cost; None where it did not complete, and so costs nothing."""

    job_id: UUID
    team_id: UUID
    operation: str
    model: str
    month: date
    credits: int | None
    id: UUID = msgspec.field(default_factory=new_id)


async def lock_balances(tx: AsyncConnection, team_ids: Collection[UUID], month: date) -> Sequence[AnyRow]:
    """Lock a month's balances of those of these teams that have a budget, in order of team; made where they are missing.

    Teams of test keys have none, whatever somebody set: what they do costs nothing.
    """
    parameters = {"team_ids": list(team_ids), "month": month}
    limited = await _LIST_LIMITED.fetch(tx, parameters)
    if not limited:
        return []
    await _INSERT_BALANCES.fetch(tx, {"team_ids": [row.id for row in limited], "month": month})
    return await _LOCK_BALANCES.fetch(tx, parameters)


_LIST_LIMITED: Final = Statement(
    """
    SELECT id FROM teams
    WHERE id = ANY(CAST(:team_ids AS uuid[])) AND monthly_credits IS NOT NULL AND test_of IS NULL ORDER BY id
    """
)
_INSERT_BALANCES: Final = Statement(
    """
    INSERT INTO balances (team_id, month)
    SELECT id, :month FROM unnest(CAST(:team_ids AS uuid[])) AS team (id) ORDER BY id
    ON CONFLICT DO NOTHING
    """
)
_LOCK_BALANCES: Final = Statement(
    """
    SELECT team_id, reserved, spent, monthly_credits AS budget
    FROM balances JOIN teams ON teams.id = team_id
    WHERE team_id = ANY(CAST(:team_ids AS uuid[])) AND month = :month AND monthly_credits IS NOT NULL AND test_of IS NULL
    ORDER BY team_id FOR UPDATE OF balances
    """
)


async def estimate(
    tx: AsyncConnection, account: str, models: Collection[tuple[str, str]], *, default: int
) -> dict[tuple[str, str], int]:
    """What a job of each operation and model will cost: by its own history, else by the upstream's list, else `default`."""
    operations, names = [operation for operation, _ in models], [model for _, model in models]
    asked = {"account": account, "operations": operations, "models": names, "history": HISTORY}
    rows = await _ESTIMATE.fetch(tx, asked)
    return {(row.operation, row.model): _whole(row.dearest, row.listed, default) for row in rows}


def _whole(dearest: int | None, listed: float | None, default: int) -> int:
    if dearest is not None:
        return dearest
    return default if listed is None else math.ceil(listed)


_ESTIMATE: Final = Statement(
    """
    SELECT operation, model,
        (
            SELECT max(credit_cost) FROM (
                SELECT credit_cost FROM jobs
                WHERE status = 'COMPLETED' AND accepted_at IS NOT NULL
                    AND jobs.operation = asked.operation AND jobs.model = asked.model
                ORDER BY completed_at DESC LIMIT :history
            ) AS latest
        ) AS dearest,
        (
            SELECT max(CAST(CAST(cost AS text) AS double precision)) FROM catalogs, jsonb_path_query(
                models, '$.models[*] ? (@.id == $model).costMax ? (@.type() == "number")',
                jsonb_build_object('model', asked.model)
            ) AS cost
            WHERE catalogs.account = :account
        ) AS listed
    FROM unnest(CAST(:operations AS text[]), CAST(:models AS text[])) AS asked (operation, model)
    """
)


async def list_reserved(tx: AsyncConnection, job_ids: Collection[UUID]) -> set[UUID]:
    """Which of these jobs have a reserve, in force or not."""
    statement = text("SELECT job_id FROM ledger WHERE job_id = ANY(CAST(:ids AS uuid[])) AND kind = 'reserve'")
    return {row.job_id for row in await tx.execute(statement, {"ids": list(job_ids)})}


async def insert_reserves(
    tx: AsyncConnection, reserves: Sequence[NewReserve], *, month: date, now: datetime
) -> Sequence[AnyRow]:
    """Enter reserves of balances that are locked; return those balances as they are then."""
    if not reserves:
        return []
    return await _INSERT_RESERVES.fetch(
        tx,
        {
            "now": now,
            "month": month,
            "ids": [new_id() for _ in reserves],
            "job_ids": [each.job_id for each in reserves],
            "team_ids": [each.team_id for each in reserves],
            "operations": [each.operation for each in reserves],
            "models": [each.model for each in reserves],
            "credits": [each.credits for each in reserves],
        },
    )


_BALANCE: Final = """balances.team_id, balances.month, balances.reserved, balances.spent, balances.told,
        (SELECT monthly_credits FROM teams WHERE teams.id = balances.team_id) AS budget"""

_INSERT_RESERVES: Final = Statement(
    f"""
    WITH entered AS (
        INSERT INTO ledger (id, at, team_id, month, job_id, operation, model, kind, reserved_change, spent_change)
        SELECT id, :now, team_id, :month, job_id, operation, model, 'reserve', credits, 0
        FROM unnest(
            CAST(:ids AS uuid[]), CAST(:job_ids AS uuid[]), CAST(:team_ids AS uuid[]), CAST(:operations AS text[]),
            CAST(:models AS text[]), CAST(:credits AS integer[])
        ) AS new (id, job_id, team_id, operation, model, credits)
        ON CONFLICT (job_id, kind) DO NOTHING
        RETURNING team_id, reserved_change
    ), sums AS (
        SELECT team_id, sum(reserved_change) AS reserved FROM entered GROUP BY team_id
    )
    UPDATE balances SET reserved = balances.reserved + sums.reserved
    FROM sums WHERE balances.team_id = sums.team_id AND balances.month = :month
    RETURNING {_BALANCE}
    """  # noqa: S608 - the only part put in is a constant of ours
)


async def insert_endings(tx: AsyncConnection, jobs: Sequence[Ended], *, now: datetime) -> Sequence[AnyRow]:
    """Enter what ended jobs cost, or that they cost nothing, and return the balances that this changed, as they are then.

    The jobs are held by this transaction. The balances are locked in order of team and month.
    """
    parameters = {"now": now, "rows": recordset(jobs), "job_ids": [each.job_id for each in jobs]}
    return await _INSERT_ENDINGS.fetch(tx, parameters)


_INSERT_ENDINGS: Final = Statement(
    f"""
    WITH ended AS (
        SELECT * FROM json_to_recordset(CAST(:rows AS json)) AS ended (id uuid, job_id uuid, team_id uuid, operation text,
            model text, month date, credits integer)
    ), held AS (
        SELECT job_id, sum(reserved_change) AS credits
        FROM ledger WHERE job_id = ANY(CAST(:job_ids AS uuid[])) GROUP BY job_id
    ), entered AS (
        INSERT INTO ledger (id, at, team_id, month, job_id, operation, model, kind, reserved_change, spent_change)
        SELECT ended.id, :now, team_id, month, ended.job_id, operation, model,
            CASE WHEN ended.credits IS NULL THEN 'release' ELSE 'settle' END,
            -coalesce(held.credits, 0), coalesce(ended.credits, 0)
        FROM ended JOIN teams ON teams.id = team_id AND test_of IS NULL LEFT JOIN held ON held.job_id = ended.job_id
        WHERE ended.credits IS NOT NULL OR held.credits > 0
        ON CONFLICT (job_id, kind) DO NOTHING
        RETURNING team_id, month, reserved_change, spent_change
    )
    INSERT INTO balances (team_id, month, reserved, spent)
    SELECT team_id, month, sum(reserved_change), sum(spent_change) FROM entered
    GROUP BY team_id, month ORDER BY team_id, month
    ON CONFLICT (team_id, month) DO UPDATE
        SET reserved = balances.reserved + excluded.reserved, spent = balances.spent + excluded.spent
    RETURNING {_BALANCE}
    """  # noqa: S608 - the only part put in is a constant of ours
)


async def mark_told(tx: AsyncConnection, thresholds: Mapping[tuple[UUID, date], int]) -> None:
    """Note which thresholds teams were told of; their balances are locked by this transaction."""
    if not thresholds:
        return
    parameters = {
        "team_ids": [team_id for team_id, _ in thresholds],
        "months": [month for _, month in thresholds],
        "thresholds": list(thresholds.values()),
    }
    await _MARK_TOLD.fetch(tx, parameters)


_MARK_TOLD: Final = Statement(
    """
    UPDATE balances SET told = new.threshold
    FROM unnest(CAST(:team_ids AS uuid[]), CAST(:months AS date[]), CAST(:thresholds AS integer[]))
        AS new (team_id, month, threshold)
    WHERE balances.team_id = new.team_id AND balances.month = new.month
    """
)
