"""The pages of teams: what each may do and what it spent. Only admins change anything, by the rules of `teams`."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from starlette.responses import Response

from app.config import MODALITIES
from app.dashboard.keys import state_of
from app.dashboard.listing import Listing
from app.dashboard.visits import Visit
from app.models.teams import SCOPES, TEST_SCOPES
from app.paging import parse_id
from app.teams import issuing, standing, teams

SHOWN: Final = 50

NOTHING: Final = "-"
"""What is written for a list that allows nothing; an empty field is no limit."""

_NUMBERS: Final = ("requestsPerMinute", "queuedLimit", "inFlightLimit", "monthlyCredits")
_LISTS: Final = ("allowedOperations", "allowedModels", "archivedModalities")


async def show_teams(visit: Visit) -> Response:
    """A page of teams by name."""
    listing = Listing.of(visit, standing.FILTERS)
    page = await standing.find_teams(visit.ctx, visit.caller, listing.asked, limit=SHOWN)
    return visit.render("teams.html", teams=page["teams"], **listing.links(page["nextCursor"]))


async def create_team(visit: Visit) -> Response:
    """Make a team, which may do everything until it is limited."""
    visit.caller.must("admin")
    made = await teams.create(visit.ctx, visit.caller, {"name": visit.value("name")})
    return visit.done(_page(made["id"]), f"Made the team {made['name']}. It has no key yet.")


async def show_team(visit: Visit) -> Response:
    """A team: its limits, its budget, its keys."""
    team = await standing.show_standing(visit.ctx, visit.caller, _team_id(visit))
    keys = await _list_keys(visit, team["name"])
    return visit.render(
        "team.html",
        team=team,
        limits={name: _written(team[name]) for name in (*_NUMBERS, *_LISTS)},
        scopes=SCOPES,
        test_scopes=TEST_SCOPES,
        modalities=MODALITIES,
        keys=[key | {"state": state_of(key, visit.ctx.now())} for key in keys["keys"]],
        more_keys=keys["hasMore"],
    )


async def change_limits(visit: Visit) -> Response:
    """Change what a team may do. Every field of the form counts: an empty one takes a limit away."""
    visit.caller.must("admin")
    team_id = _team_id(visit)
    asked: dict[str, Any] = {name: _read_number(visit.value(name)) for name in _NUMBERS}
    asked |= {name: _read_list(visit.value(name)) for name in _LISTS}
    await teams.change(visit.ctx, visit.caller, team_id, asked)
    return visit.done(_page(team_id), "The limits are as you set them.")


async def pause(visit: Visit) -> Response:
    """Send nothing for a team any more; its submissions are accepted, and wait."""
    visit.caller.must("admin")
    team_id = _team_id(visit)
    await teams.change(visit.ctx, visit.caller, team_id, {"paused": True})
    return visit.done(_page(team_id), "Paused. Its submissions are accepted, and wait.")


async def resume(visit: Visit) -> Response:
    """Let a team's jobs be sent again; back to the page that had the button."""
    visit.caller.must("admin")
    team_id = _team_id(visit)
    resumed = await teams.change(visit.ctx, visit.caller, team_id, {"paused": False})
    path = "/ops/upstream" if visit.value("back") == "upstream" else _page(team_id)
    return visit.done(path, f"The jobs of {resumed['name']} are sent again.")


async def _list_keys(visit: Visit, team: str) -> dict[str, Any]:
    query = {"team": team, "limit": str(issuing.LARGEST_LIMIT)}
    return await issuing.show_all(visit.ctx, visit.caller, query)


def _read_number(text: str) -> Any:
    """A number, None for an empty field, and what is neither as it is: the rules of `teams` say what is wrong with it."""
    if not text:
        return None
    plain = text.replace(",", "")
    return int(plain) if plain.isascii() and plain.isdecimal() and len(plain) < 20 else text


def _read_list(text: str) -> list[str] | None:
    if not text:
        return None
    return [] if text == NOTHING else [each.strip() for each in text.split(",") if each.strip()]


def _written(limit: Any) -> str:
    if limit is None:
        return ""
    return (", ".join(limit) or NOTHING) if isinstance(limit, list) else str(limit)


def _team_id(visit: Visit) -> UUID:
    return parse_id(visit.request.path_params["team_id"], "Team")


def _page(team_id: UUID) -> str:
    return f"/ops/teams/{team_id}"
