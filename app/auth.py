"""Who calls. A key is known by its SHA-256 alone, and what was looked up is believed for at most a second.

Every request of a team counts against the team's limit here, once, however often it asks anew who it is.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request

from app.bucket import refilled, seconds_to_one
from app.context import Context
from app.errors import Forbidden, TooMany, Unauthenticated
from app.statements import Statement

BELIEVED_SECONDS: Final = 1.0
MOST_BELIEVED: Final = 10_000

NOBODY: Final = UUID(int=0)
"""In place of a key's id, for what is done by a command."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A key that was found good, and its team."""

    key_id: UUID
    team_id: UUID
    team: str
    scopes: frozenset[str]
    test: bool = False  # what it does costs nothing and reaches no model
    requests_per_minute: int | None = None  # the team's limit; None: as many as it likes
    on_duty: bool = False  # acts for whoever runs the service, also on its own team's things

    @property
    def actor(self) -> str:
        """By what name the audit log knows it."""
        return "cli" if self.key_id == NOBODY else str(self.key_id)

    def is_foreign_to(self, team_id: UUID) -> bool:
        """Whether what this caller does to a thing of that team is told in the audit log: it is another team's affair."""
        return self.key_id == NOBODY or self.on_duty or self.team_id != team_id

    @property
    def sees_all(self) -> bool:
        """Whether the jobs of all teams are this key's to read."""
        return not self.scopes.isdisjoint(("ops", "admin"))

    @property
    def only_team(self) -> UUID | None:
        """The one team whose jobs this key may read; None means those of every team."""
        return None if self.sees_all else self.team_id

    def must(self, *scopes: str) -> None:
        """Raise Forbidden unless the key has one of these scopes; `admin` has them all."""
        if self.scopes.isdisjoint((*scopes, "admin")):
            raise Forbidden(f"This key lacks the scope '{scopes[0]}'")


def key_hash(key: str) -> bytes:
    """What is stored of a key."""
    return hashlib.sha256(key.encode()).digest()


class KeyRing:
    """The keys that were looked up within the last second. Calls that miss together share one look-up."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._known: OrderedDict[bytes | UUID, tuple[float, asyncio.Task[Caller | None]]] = OrderedDict()

    async def caller_by_key(self, request: Request, key: str, *scopes: str) -> Caller:
        """Whoever a key belongs to, with one of these scopes; any will do where none is named.

        Raises Unauthenticated, Forbidden, TooMany, or what a database that is away raises.
        """
        return await self._admit(request, await self._find(key_hash(key)) if key else None, scopes)

    async def caller_by_id(self, request: Request, key_id: UUID, *scopes: str) -> Caller:
        """Whoever a key belongs to that somebody proved to have had, by its id. Raises the same."""
        return await self._admit(request, await self._find(key_id), scopes)

    async def _admit(self, request: Request, caller: Caller | None, scopes: Sequence[str]) -> Caller:
        if caller is None:
            raise Unauthenticated()
        state = request.scope["state"]
        if "is_counted" not in state:
            state["is_counted"] = True
            if caller.requests_per_minute is not None:
                await self._count(caller)
        if scopes:
            caller.must(*scopes)
        return caller

    async def _count(self, caller: Caller) -> None:
        wait_seconds = await self._ctx.batched(take_requests, caller.team_id)
        if wait_seconds:
            raise TooMany(retry_after_seconds=wait_seconds)

    async def _find(self, key: bytes | UUID) -> Caller | None:
        now = time.monotonic()
        known = self._known.get(key)
        if known is None or now - known[0] >= BELIEVED_SECONDS or _failed(known[1]):
            known = self._known[key] = (now, self._ctx.start(find_caller(self._ctx, key)))
            self._known.move_to_end(key)
            if len(self._known) > MOST_BELIEVED:
                self._known.popitem(last=False)
        return known[1].result() if known[1].done() else await asyncio.shield(known[1])


async def find_caller(ctx: Context, key: bytes | UUID) -> Caller | None:
    """Look a key up by its hash, or by its id; where it was not used for a minute, write down that it was."""
    parameters = {"key": key, "now": ctx.now()}
    async with ctx.db.reading() as connection:
        row = (await connection.execute(_FIND_BY_ID if isinstance(key, UUID) else _FIND, parameters)).one_or_none()
    if row is None:
        return None
    return Caller(row.id, row.team_id, row.team, frozenset(row.scopes), row.test, row.requests_per_minute)


async def take_requests(ctx: Context, tx: AsyncConnection, team_ids: Sequence[UUID]) -> list[int]:
    """Take a request of each of these teams' limits, whose rows are locked in the order of their ids.

    Answers 0 for a request that may be made, else after how many whole seconds the next one may. Run again after an
    unknown commit it may take twice: fewer requests are let through then, and never more.
    """
    now = ctx.now()
    rows = {row.id: row for row in await _LOCK_LIMITED.fetch(tx, {"ids": sorted(set(team_ids))})}
    left = {
        row.id: refilled(row.request_tokens, row.request_tokens_at, now, row.requests_per_minute)
        for row in rows.values()
    }
    waits = []
    for team_id in team_ids:
        allowed = left.get(team_id, 1.0)  # a team that is not limited any more
        if allowed >= 1 and team_id in left:
            left[team_id] = allowed - 1
        waits.append(0 if allowed >= 1 else seconds_to_one(allowed, rows[team_id].requests_per_minute))
    await _WRITE_TOKENS.fetch(tx, {"ids": list(left), "tokens": list(left.values()), "now": now})
    return waits


_LOCK_LIMITED: Final = Statement(
    """
    SELECT id, requests_per_minute, request_tokens, request_tokens_at FROM teams
    WHERE id = ANY(CAST(:ids AS uuid[])) AND requests_per_minute IS NOT NULL
    ORDER BY id FOR NO KEY UPDATE
    """
)

# The time never goes back: the same seconds would fill the bucket twice where the clocks of two processes differ.
_WRITE_TOKENS: Final = Statement(
    """
    UPDATE teams SET request_tokens = taken.tokens,
        request_tokens_at = greatest(request_tokens_at, CAST(:now AS timestamptz))
    FROM unnest(CAST(:ids AS uuid[]), CAST(:tokens AS float8[])) AS taken (id, tokens)
    WHERE teams.id = taken.id
    """
)


def _failed(task: asyncio.Task[Caller | None]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


def _find(condition: str) -> TextClause:
    return text(
        f"""
        WITH found AS (
            SELECT k.id, k.team_id, t.name AS team, t.test_of IS NOT NULL AS test, t.requests_per_minute, k.scopes,
                k.last_used_at
            FROM api_keys k JOIN teams t ON t.id = k.team_id
            WHERE {condition} AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > :now)
        ), touched AS (
            UPDATE api_keys SET last_used_at = :now
            WHERE id = (SELECT id FROM found WHERE last_used_at IS NULL OR last_used_at < :now - interval '1 minute')
        )
        SELECT id, team_id, team, test, scopes, requests_per_minute FROM found
        """  # noqa: S608 - the conditions are the two below
    )


_FIND: Final = _find("k.key_hash = :key")
_FIND_BY_ID: Final = _find("k.id = :key")
