"""The jobs that actions go on from: our id in what callers send and read, the upstream's in what goes upstream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

from app.apiframe.operations import ACTIONS, PARENT, fits
from app.auth import Caller
from app.context import Context
from app.errors import Conflict, NotFound
from app.jobs.queries import acceptance


@dataclass(frozen=True, slots=True)
class Parent:
    """A job that completed, and that an action fits as far as we can tell."""

    id: UUID
    upstream_id: str
    model: str

    def translated(self, wire: Mapping[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
        """The fields with the upstream's id of this job; all others keep their bytes and their order."""
        return {**wire, PARENT: msgspec.Raw(msgspec.json.encode(self.upstream_id))}


async def find_parent(ctx: Context, caller: Caller, operation: str, body: Mapping[str, Any]) -> Parent | None:
    """The job that an action's body names, None for other operations.

    Raises NotFound where the caller's team has no such job, and Conflict where the action cannot go on from it.
    """
    if operation not in ACTIONS:
        return None
    parent_id = UUID(body[PARENT])
    async with ctx.db.reading() as connection:
        row = await acceptance.find_parent(connection, caller.team_id, parent_id)
    if row is None:
        raise NotFound("Parent job not found")
    if not fits(operation, row.operation, row.model):
        raise Conflict(f"This action goes on from a {ACTIONS[operation]} job, and the parent job is of {row.model}")
    if row.status != "COMPLETED":
        raise Conflict(f"This action goes on from a job that completed, and the parent job is {row.status}")
    if row.upstream_id is None or row.upstream_account != ctx.account:
        raise Conflict("The parent job was not run by the Apiframe account that is used now")
    return Parent(row.id, row.upstream_id, row.model)
