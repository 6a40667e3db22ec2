"""SQL of steps: what happened to jobs, for their traces. A table that retention drops by the day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from uuid_utils.compat import uuid7


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that happened to a job. `source` said or did it: a mouth of the upstream, ourselves, or a key's id."""

    job_id: UUID
    at: datetime
    kind: Literal["dispatch", "transition", "poll", "action", "archive"]
    source: str
    data: Mapping[str, Any]


async def insert_steps(tx: AsyncConnection, steps: Sequence[Step]) -> None:
    """Keep steps, in the transaction that makes them true."""
    if not steps:
        return
    await tx.execute(
        _INSERT,
        {
            "ids": [uuid7() for _ in steps],
            "job_ids": [step.job_id for step in steps],
            "ats": [step.at for step in steps],
            "kinds": [step.kind for step in steps],
            "sources": [step.source for step in steps],
            "datas": [msgspec.json.encode(step.data).decode() for step in steps],
        },
    )


_INSERT: Final = text(
    """
    INSERT INTO steps (id, job_id, at, kind, source, data)
    SELECT id, job_id, at, kind, source, CAST(data AS jsonb)
    FROM unnest(
        CAST(:ids AS uuid[]), CAST(:job_ids AS uuid[]), CAST(:ats AS timestamptz[]), CAST(:kinds AS text[]),
        CAST(:sources AS text[]), CAST(:datas AS text[])
    ) AS new (id, job_id, at, kind, source, data)
    """
)
