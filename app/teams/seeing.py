"""Which teams' things a caller sees, and how it narrows them down."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from app.auth import Caller
from app.errors import Forbidden, Invalid
from app.teams.queries.teams import find_team


def team_of_keys(caller: Caller) -> UUID | None:
    """The one team whose keys a caller sees: None, all of them, for admins, and for operators at the dashboard.

    A program with an operator's key sees no other team's.
    """
    return None if "admin" in caller.scopes or caller.on_duty else caller.team_id


async def narrowed(connection: AsyncConnection, caller: Caller, seen: UUID | None, name: str | None) -> UUID | None:
    """The one team whose things are listed: the one that was named, within what the caller sees of them; None: all.

    Raises Forbidden for another team than the one that is seen, Invalid where there is none of that name.
    """
    if name is None or (seen is not None and name == caller.team):
        return seen
    if seen is not None:
        raise Forbidden("This key sees its own team only")
    team = None if "\0" in name else await find_team(connection, name)
    if team is None:
        raise Invalid(details={"team": ["There is no team of this name"]})
    return UUID(str(team.id))
