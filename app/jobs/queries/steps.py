"""SQL of steps: what happened to jobs, for their traces. A table that retention drops by the day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from app.clock import new_id
from app.db import recordset
from app.statements import Statement


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened to a job. `source` said or did it: a mouth of the upstream, ourselves, or a key's id."""

    job_id: UUID
    at: datetime
    kind: Literal["dispatch", "transition", "poll", "action", "archive"]
    source: str
    data: Mapping[str, Any]
    id: UUID = msgspec.field(default_factory=new_id)


async def insert_steps(tx: AsyncConnection, steps: Sequence[Step]) -> None:
    """Keep steps, in the transaction that makes them true."""
    if not steps:
        return
    await _INSERT.fetch(tx, {"steps": recordset(steps)})


INSERT_STEPS: Final = """
    INSERT INTO steps (id, job_id, at, kind, source, data)
    SELECT id, job_id, at, kind, source, data
    FROM json_to_recordset(CAST(:steps AS json))
        AS new (id uuid, job_id uuid, at timestamptz, kind text, source text, data jsonb)
    """

_INSERT: Final = Statement(INSERT_STEPS)
