"""The page of the audit log: what admins and operators did, newest first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

import msgspec
from starlette.responses import Response

from app.dashboard.visits import Visit
from app.dashboard.words import line
from app.ops.queries import list_key_names
from app.paging import find_id
from app.teams.audit import show_entries

SHOWN: Final = 50

_FILTERS: Final = ("action", "team", "since")

_PAGES: Final[Mapping[str, str]] = {
    "job": "/ops/jobs/{}",
    "key": "/ops/keys/{}",
    "team": "/ops/teams/{}",
    "subscription": "/ops/subscriptions/{}",
    "delivery": "/ops/deliveries/{}",
    "session": "/ops/sessions",
    "dispatch": "/ops/upstream",
}
"""Where the subject of an action is to be seen, by the word that the action begins with."""

_KINDS: Final = (*_PAGES, "replay")


async def show_audit(visit: Visit) -> Response:
    """A page of entries, by action, team and time."""
    asked = {name: text for name, text in visit.request.query_params.items() if text}
    page = await show_entries(visit.ctx, visit.caller, asked | {"limit": str(SHOWN)})
    names = await _find_names(visit, page["entries"])
    filters = {name: asked.get(name, "") for name in _FILTERS}
    kept = {name: text for name, text in filters.items() if text}
    return visit.render(
        "audit.html",
        entries=[
            entry | {"actorName": names.get(entry["actor"]), "url": _url(entry), "told": _told(entry)}
            for entry in page["entries"]
        ],
        filters=filters,
        kinds=_KINDS,
        teams={
            entry["team"]: f"?{urlencode(kept | {'team': entry['team']})}" for entry in page["entries"] if entry["team"]
        },
        newest=f"?{urlencode(kept)}" if "cursor" in asked else None,
        older=f"?{urlencode(kept | {'cursor': page['nextCursor']})}" if page["nextCursor"] else None,
    )


async def _find_names(visit: Visit, entries: list[dict[str, Any]]) -> dict[str, str]:
    ids = {found for entry in entries if (found := find_id(entry["actor"])) is not None}
    async with visit.ctx.db.reading() as connection:
        names: dict[UUID, str] = await list_key_names(connection, ids)
    return {str(key_id): name for key_id, name in names.items()}


def _told(entry: Mapping[str, Any]) -> str:
    """The details in one line; of a change what it was and what it became."""
    data = msgspec.json.decode(entry["data"])
    if set(data) != {"before", "after"}:
        return line(data)
    return ", ".join(
        f"{name} {_written(data['before'].get(name))} → {_written(value)}" for name, value in data["after"].items()
    )


def _written(value: Any) -> str:
    return "none" if value is None else msgspec.json.encode(value).decode()


def _url(entry: Mapping[str, Any]) -> str:
    kind = entry["action"].partition(".")[0]
    if kind == "replay":
        data = msgspec.json.decode(entry["data"])
        return f"/ops/subscriptions/{data['subscriptionId']}#replay" if "subscriptionId" in data else ""
    page = _PAGES.get(kind, "")
    return page.format(entry["subject"]) if find_id(entry["subject"]) or "{}" not in page else ""
