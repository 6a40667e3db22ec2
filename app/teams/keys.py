"""Make, list and revoke API keys. Revocation reaches every process within the second that a key is believed."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.auth import key_hash
from app.clock import new_id
from app.errors import Conflict
from app.models.teams import SCOPES, TEST_SCOPES

PREFIX: Final = "fh_live_"
TEST_PREFIX: Final = "fh_test_"
SHOWN: Final = len(PREFIX) + 6
"""How many characters of a key may be shown again, to recognise it by."""

BOOTSTRAP_NAME: Final = "bootstrap admin"


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key at the only moment when it is known."""

    id: UUID
    key: str
    team: str
    team_id: UUID
    scopes: tuple[str, ...]


def check_scopes(names: Sequence[str]) -> tuple[str, ...]:
    """The scopes without doubles, in their own order. Raises ValueError for an unknown name or none at all."""
    unknown = sorted(set(names) - set(SCOPES))
    if unknown or not names:
        raise ValueError(f"unknown scope {', '.join(unknown) or '(none)'}; there are {', '.join(SCOPES)}")
    return tuple(scope for scope in SCOPES if scope in names)


async def create_key(
    tx: AsyncConnection,
    *,
    team: str,
    scopes: Sequence[str],
    now: datetime,
    name: str = "",
    key: str | None = None,
    expires_at: datetime | None = None,
    test: bool = False,
) -> NewKey:
    """Make a key for a team, and the team if it is new. `key` is given only for the bootstrap key.

    A test key is one of the team's twin, which shares nothing with it but the beginning of its name. Raises ValueError for
    scopes that a test key cannot have, and Conflict where the name is that of a team for live keys, or the other way round.
    """
    key = key or (TEST_PREFIX if test else PREFIX) + secrets.token_urlsafe(32)
    if test and not set(scopes) <= set(TEST_SCOPES):
        raise ValueError(f"a test key can have the scopes {', '.join(TEST_SCOPES)} only")
    team_id = await _get_or_insert_team(tx, team, now)
    if test:
        team = twin_name(team)
        team_id = await _get_or_insert_team(tx, team, now, test_of=team_id)
    made = NewKey(new_id(), key, team, team_id, check_scopes(scopes))
    await tx.execute(
        text(
            """
            INSERT INTO api_keys (id, team_id, name, key_hash, prefix, scopes, created_at, expires_at)
            VALUES (:id, :team_id, :name, :key_hash, :prefix, :scopes, :now, :expires_at)
            """
        ),
        {
            "id": made.id,
            "team_id": team_id,
            "name": name,
            "key_hash": key_hash(key),
            "prefix": key[:SHOWN],
            "scopes": list(made.scopes),
            "now": now,
            "expires_at": expires_at,
        },
    )
    return made


async def ensure_bootstrap_key(tx: AsyncConnection, key: str, now: datetime) -> None:
    """Make the key of `FRAMEHOOK_BOOTSTRAP_ADMIN_KEY` valid, once; a revoked one stays revoked."""
    await tx.execute(text("SELECT pg_advisory_xact_lock(hashtext('framehook bootstrap key'))"))
    known = await tx.execute(text("SELECT 1 FROM api_keys WHERE key_hash = :hash"), {"hash": key_hash(key)})
    if known.first() is None:
        await create_key(tx, team="admin", scopes=("admin",), now=now, name=BOOTSTRAP_NAME, key=key)


async def list_keys(tx: AsyncConnection, team: str | None = None) -> Sequence[Row[tuple[object, ...]]]:
    """All keys, revoked ones too, by team and age: id, team, name, prefix, scopes and times."""
    result = await tx.execute(
        text(
            """
            SELECT k.id, t.name AS team, k.name, k.prefix, k.scopes, k.created_at, k.expires_at, k.revoked_at,
                k.last_used_at
            FROM api_keys k JOIN teams t ON t.id = k.team_id
            WHERE CAST(:team AS text) IS NULL OR t.name = :team
            ORDER BY t.name, k.created_at, k.id
            """
        ),
        {"team": team},
    )
    return result.all()


async def revoke_key(tx: AsyncConnection, key_id: UUID, now: datetime) -> bool:
    """Revoke a key; False if there is no such key that is not revoked already."""
    result = await tx.execute(
        text("UPDATE api_keys SET revoked_at = :now WHERE id = :id AND revoked_at IS NULL"), {"id": key_id, "now": now}
    )
    return result.rowcount == 1


def twin_name(team: str) -> str:
    """What the team is called that a team's test keys belong to."""
    return f"{team} (test)"


async def _get_or_insert_team(tx: AsyncConnection, name: str, now: datetime, *, test_of: UUID | None = None) -> UUID:
    inserted = await tx.execute(
        text(
            """
            INSERT INTO teams (id, name, created_at, test_of) VALUES (:id, :name, :now, :test_of)
            ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING id, test_of
            """
        ),
        {"id": new_id(), "name": name, "now": now, "test_of": test_of},
    )
    team = inserted.one()
    if team.test_of != test_of:
        raise Conflict(f"The team {name} is one for {'live' if team.test_of is None else 'test'} keys")
    return UUID(str(team.id))
