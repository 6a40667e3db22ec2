"""Who calls. A key is known by its SHA-256 alone, and what was looked up is believed for at most a second."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import TextClause, text
from starlette.requests import Request

from app.context import Context
from app.errors import Forbidden, Unauthenticated

BELIEVED_SECONDS: Final = 1.0
MOST_BELIEVED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Caller:
    """A key that was found good, and its team."""

    key_id: UUID
    team_id: UUID
    team: str
    scopes: frozenset[str]
    test: bool = False  # what it does costs nothing and reaches no model

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

    async def caller(self, request: Request, *scopes: str) -> Caller:
        """Whoever sent this request, with one of these scopes.

        Raises Unauthenticated, Forbidden, or what a database that is away raises.
        """
        key = request.headers.get("x-api-key") or _bearer(request.headers.get("authorization", ""))
        return _good(await self._find(key_hash(key)) if key else None, scopes)

    async def caller_by_id(self, key_id: UUID, *scopes: str) -> Caller:
        """Whoever a key belongs to that somebody proved to have had, by its id. Raises as `caller` does."""
        return _good(await self._find(key_id), scopes)

    async def _find(self, key: bytes | UUID) -> Caller | None:
        now = time.monotonic()
        known = self._known.get(key)
        if known is None or now - known[0] >= BELIEVED_SECONDS or _failed(known[1]):
            known = self._known[key] = (now, self._ctx.start(find_caller(self._ctx, key)))
            self._known.move_to_end(key)
            if len(self._known) > MOST_BELIEVED:
                self._known.popitem(last=False)
        return await asyncio.shield(known[1])


async def find_caller(ctx: Context, key: bytes | UUID) -> Caller | None:
    """Look a key up by its hash, or by its id; where it was not used for a minute, write down that it was."""
    parameters = {"key": key, "now": ctx.now()}
    async with ctx.db.reading() as connection:
        row = (await connection.execute(_FIND_BY_ID if isinstance(key, UUID) else _FIND, parameters)).one_or_none()
    return Caller(row.id, row.team_id, row.team, frozenset(row.scopes), row.test) if row else None


def _good(caller: Caller | None, scopes: Iterable[str]) -> Caller:
    if caller is None:
        raise Unauthenticated()
    caller.must(*scopes)
    return caller


def _bearer(header: str) -> str:
    scheme, _, key = header.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _failed(task: asyncio.Task[Caller | None]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


def _find(condition: str) -> TextClause:
    return text(
        f"""
        WITH found AS (
            SELECT k.id, k.team_id, t.name AS team, t.test_of IS NOT NULL AS test, k.scopes, k.last_used_at
            FROM api_keys k JOIN teams t ON t.id = k.team_id
            WHERE {condition} AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > :now)
        ), touched AS (
            UPDATE api_keys SET last_used_at = :now
            WHERE id = (SELECT id FROM found WHERE last_used_at IS NULL OR last_used_at < :now - interval '1 minute')
        )
        SELECT id, team_id, team, test, scopes FROM found
        """  # noqa: S608 - the conditions are the two below
    )


_FIND: Final = _find("k.key_hash = :key")
_FIND_BY_ID: Final = _find("k.id = :key")
