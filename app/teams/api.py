"""The routes of teams, keys and the audit log."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from app.errors import NotFound
from app.http import caller, context, json_response, read_object
from app.paging import parse_id
from app.teams import audit, issuing, teams
from app.teams.asking import read_grace, read_new_key

LARGEST_BODY: Final = 256 * 1024


async def list_teams(request: Request) -> Response:
    """List all teams with what they may do, oldest first. `cursor` takes the `nextCursor` of the page before."""
    await caller(request, "admin")
    return json_response(await teams.show_all(context(request), request.query_params))


async def create_team(request: Request) -> Response:
    """Make a team. Its `name` is for good; the limits are those that can be changed later. 409: the name is taken."""
    who = await caller(request, "admin")
    body = await read_object(request, largest=LARGEST_BODY)
    return json_response(await teams.create(context(request), who, body), status=201)


async def get_team(request: Request) -> Response:
    """Read what your own team may do, or with the scope `ops` any team."""
    who = await caller(request)
    return json_response(await teams.show(context(request), who, _team_id(request)))


async def change_team(request: Request) -> Response:
    """Change what a team may do. null takes a limit away.

    `requestsPerMinute` is what all its keys may ask together, `queuedLimit` how many jobs may wait to be sent,
    `inFlightLimit` how many may run at Apiframe at a time. `allowedOperations` and `allowedModels` are names, or patterns
    with `*`. `monthlyCredits` is its budget. `archivedModalities` are the results that are kept: null leaves that to the
    setting, `[]` keeps none. With `paused` its jobs are accepted, and wait.
    """
    who, team_id = await caller(request), _team_id(request)
    if who.only_team not in (None, team_id):
        raise NotFound("Team not found")
    who.must("admin")
    body = await read_object(request, largest=LARGEST_BODY)
    return json_response(await teams.change(context(request), who, team_id, body))


async def create_key(request: Request) -> Response:
    """Make a key for a team that there is. The answer has the `key`, now and never again.

    `scopes` are some of submit, read, subscribe, ops and admin. `name` says what it is for; `expiresAt` when it ends.
    """
    who, ctx = await caller(request, "admin"), context(request)
    asked = read_new_key(await read_object(request, largest=LARGEST_BODY), ctx.now())
    return json_response(await issuing.create(ctx, who, asked), status=201, headers={"Cache-Control": "no-store"})


async def list_keys(request: Request) -> Response:
    """List your team's keys, oldest first, revoked ones too; with the scope `admin` those of all teams, or of `team`.

    `lastUsedAt` is right to the minute. `rotatedTo` is the key that takes this one's place.
    """
    who = await caller(request)
    return json_response(await issuing.show_all(context(request), who, request.query_params))


async def get_key(request: Request) -> Response:
    """Read what is known of a key of your team, or with the scope `admin` of any. The key itself is known to nobody."""
    who = await caller(request)
    return json_response(await issuing.show(context(request), who, _key_id(request)))


async def rotate_key(request: Request) -> Response:
    """Make a key that takes this one's place, with its team, name and scopes. The `key` is shown now and never again.

    The one before ends after `graceSeconds`: a day if nothing is said, at most thirty. A key whose life has an end is
    followed by one that lives as long. 409: the key is over, or was rotated already.
    """
    who = await caller(request)
    grace_seconds = read_grace(await read_object(request, largest=LARGEST_BODY))
    rotated = await issuing.rotate(context(request), who, _key_id(request), grace_seconds=grace_seconds)
    return json_response(rotated, status=201, headers={"Cache-Control": "no-store"})


async def revoke_key(request: Request) -> Response:
    """Revoke a key: every process refuses it within a second, and what waits or follows events with it ends.

    Answers 204, also for a key that is revoked already. 409: no other admin key is good for as long.
    """
    await issuing.revoke(context(request), await caller(request), _key_id(request))
    return Response(status_code=204)


async def list_entries(request: Request) -> Response:
    """List what admins and operators did, newest first: to your team, or with the scope `ops` to all of them.

    `action` is the beginning of an action such as `key.`, `since` a time, `team` a name. `actor` is a key's id, or `cli`.
    """
    who = await caller(request)
    return json_response(await audit.show_entries(context(request), who, request.query_params))


def _team_id(request: Request) -> UUID:
    return parse_id(request.path_params["team_id"], "Team")


def _key_id(request: Request) -> UUID:
    return parse_id(request.path_params["key_id"], "Key")
