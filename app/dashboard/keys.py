"""The pages of keys. A key itself is shown once, by the answer that makes it, and stands in no address, cookie or log."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from starlette.responses import Response

from app.clock import timestamp
from app.dashboard.visits import Visit
from app.errors import Invalid
from app.paging import parse_id
from app.teams import issuing, standing
from app.teams.asking import DEFAULT_GRACE_SECONDS, read_grace, read_new_key

GRACES: Final = ((0, "at once"), (3600, "an hour"), (DEFAULT_GRACE_SECONDS, "a day"), (7 * 24 * 3600, "a week"))


async def show_key(visit: Visit) -> Response:
    """A key: whose it is, what it may do, and how long it is good."""
    key = await issuing.show(visit.ctx, visit.caller, _key_id(visit))
    return visit.render("key.html", key=key | {"state": state_of(key, visit.ctx.now())}, graces=GRACES)


async def create_key(visit: Visit) -> Response:
    """Make a key for a team, and show it."""
    visit.caller.must("admin")
    team_id = parse_id(visit.request.path_params["team_id"], "Team")
    team = await standing.show_standing(visit.ctx, visit.caller, team_id)
    body: dict[str, Any] = {"team": team["name"], "scopes": visit.form.get("scopes", [])}
    body |= {"name": visit.value("name"), "test": visit.value("test") == "1"}
    if days := visit.value("days"):
        body["expiresAt"] = timestamp(visit.ctx.now() + timedelta(days=_read_days(days)))
    made = await issuing.create(visit.ctx, visit.caller, read_new_key(body, visit.ctx.now()))
    return visit.render("key_made.html", status=201, key=made, previous=None)


async def rotate_key(visit: Visit) -> Response:
    """Make a key that takes another one's place, and show it."""
    visit.caller.must("admin")
    text = visit.value("graceSeconds")
    grace = read_grace({"graceSeconds": int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else text})
    made = await issuing.rotate(visit.ctx, visit.caller, _key_id(visit), grace_seconds=grace)
    return visit.render("key_made.html", status=201, key=made, previous=made["previousExpiresAt"])


async def revoke_key(visit: Visit) -> Response:
    """Revoke a key."""
    key_id = _key_id(visit)
    await issuing.revoke(visit.ctx, visit.caller, key_id)
    return visit.done(f"/ops/keys/{key_id}", "Revoked: every process refuses it within a second.")


def state_of(key: Mapping[str, Any], now: datetime) -> str:
    """How a key stands, in a word: revoked, expired, rotated while it goes on beside another, or good."""
    if key["revokedAt"]:
        return "revoked"
    if key["expiresAt"] and datetime.fromisoformat(key["expiresAt"]) <= now:
        return "expired"
    return "rotated" if key["rotatedTo"] else "good"


def _read_days(text: str) -> int:
    if text.isascii() and text.isdecimal() and len(text) <= 5 and 1 <= int(text) <= 36_500:
        return int(text)
    raise Invalid(details={"days": ["Expected a number of days from 1 to 36,500"]})


def _key_id(visit: Visit) -> UUID:
    return parse_id(visit.request.path_params["key_id"], "Key")
