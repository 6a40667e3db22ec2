"""Which team made what at the upstream. It is written down before the team hears of the id, or very loudly not at all."""

from __future__ import annotations

import asyncio
from random import random
from typing import Final, Literal

import structlog

from app.auth import Caller
from app.backoff import exponential
from app.context import Context
from app.db import OUTAGES
from app.notify import wait
from app.relay.queries import insert_belonging, list_own

log = structlog.get_logger()

Kind = Literal["lora", "asset"]

RECORD_SECONDS: Final = 5.0
"""How long an answer waits for its owner to be written down."""


async def record(ctx: Context, who: Caller, kind: Kind, upstream_id: str) -> None:
    """Write down that this is the caller's, in a transaction of its own, or have it done as soon as the database can.

    It never fails: the upstream has made the thing, and has been paid for it perhaps, so its maker must hear of the id
    whatever becomes of our note. Until the note is there, nobody but keys with the scope `ops` finds the thing here.
    """
    try:
        await _write(ctx, who, kind, upstream_id)
    except OUTAGES as error:
        log.error(
            "belonging.unrecorded",
            account=ctx.account,
            kind=kind,
            upstream_id=upstream_id,
            team_id=str(who.team_id),
            key_id=str(who.key_id),
            error=str(error)[:200],
        )
        ctx.start(_record_later(ctx, who, kind, upstream_id))


async def is_own(ctx: Context, who: Caller, kind: Kind, upstream_id: str) -> bool:
    """Whether this is the caller's team's."""
    async with ctx.db.reading() as connection:
        return bool(await list_own(connection, ctx.account, kind, who.team_id, [upstream_id]))


async def _write(ctx: Context, who: Caller, kind: Kind, upstream_id: str) -> None:
    async with asyncio.timeout(RECORD_SECONDS), ctx.db.transaction() as tx:
        owner = await insert_belonging(
            tx, ctx.account, kind, upstream_id, team_id=who.team_id, key_id=who.key_id, now=ctx.now()
        )
    if owner != who.team_id:
        log.error("belonging.taken", kind=kind, upstream_id=upstream_id, team_id=str(who.team_id), owner=str(owner))


async def _record_later(ctx: Context, who: Caller, kind: Kind, upstream_id: str) -> None:
    """Try again until it is written down; when this process stops, once more, and then it is left to the log."""
    attempt = 0
    while True:
        attempt += 1
        await wait(ctx.closing, exponential(attempt, first=0.2, most=10, spread=random()))  # noqa: S311 - no secret
        try:
            await _write(ctx, who, kind, upstream_id)
        except OUTAGES as error:
            if ctx.closing.is_set():
                said = {"upstream_id": upstream_id, "team_id": str(who.team_id), "key_id": str(who.key_id)}
                log.error("belonging.lost", kind=kind, **said, error=str(error)[:200])
                return
        else:
            log.info("belonging.recorded", kind=kind, upstream_id=upstream_id, team_id=str(who.team_id))
            return
