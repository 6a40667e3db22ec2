"""Who a Framehook key is, in the shape of the upstream's own `GET /v2/me`, which tells of the company's key."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any, Final
from uuid import UUID, uuid5

import structlog

from app.apiframe.errors import Refusal, Unclear
from app.auth import Caller
from app.context import Context
from app.db import AnyRow
from app.jobs.claim import DEFAULT_CAP
from app.relay.queries import get_key
from app.teams.ledger import month_of

log = structlog.get_logger()

BELIEVED_SECONDS: Final = 60.0
ASKED_AGAIN_SECONDS: Final = 5.0
"""How soon an upstream that did not say is asked again."""

PATIENCE_SECONDS: Final = 2.0
"""How long an answer waits for the upstream to say how many credits are left."""

_USERS: Final = UUID("3c1d8a52-6d0b-5c2e-9a55-0f6f1f0e7b64")


class UpstreamCredits:
    """How many credits the company's account has left, asked at most once a minute by all who want to know."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._asked: asyncio.Task[int | None] | None = None
        self._asked_at = 0.0

    async def left(self) -> int:
        """The credits; 0 where the upstream does not say, or not soon."""
        age = time.monotonic() - self._asked_at
        if self._asked is None or age >= BELIEVED_SECONDS or (age >= ASKED_AGAIN_SECONDS and not self._known()):
            self._asked, self._asked_at = self._ctx.start(self._ask()), time.monotonic()
        await asyncio.wait([self._asked], timeout=PATIENCE_SECONDS)
        return self._known() or 0

    def _known(self) -> int | None:
        asked = self._asked
        done = asked is not None and asked.done() and not asked.cancelled() and asked.exception() is None
        return asked.result() if asked is not None and done else None

    async def _ask(self) -> int | None:
        try:
            payload = (await self._ctx.upstream.me(self._ctx.upstream_key)).payload
        except (Refusal, Unclear) as error:
            log.warning("upstream.unknown", asked="/v2/me", said=str(error))
            return None
        team = payload.get("team")
        credits_left = team.get("credits") if isinstance(team, dict) else None
        if isinstance(credits_left, bool) or not isinstance(credits_left, int | float):
            return None
        return max(int(credits_left), 0)


async def describe(ctx: Context, who: Caller, upstream_credits: UpstreamCredits) -> dict[str, Any]:
    """The key's `Me`. Credits are what is left of the team's monthly budget, where it has one."""
    async with ctx.db.reading() as connection:
        key = await get_key(connection, who.key_id, ctx.account, month_of(ctx.now()))
    cap = ctx.settings.max_in_flight or key.cap or DEFAULT_CAP
    return {
        "user": {
            "id": uuid5(_USERS, str(who.key_id)),
            "email": email(who.team, key.prefix),
            "role": "ADMIN" if who.sees_all else "MEMBER",
        },
        "team": {
            "id": who.team_id,
            "name": who.team,
            "credits": await _credits(who, key, upstream_credits),
            "plan": "framehook",
            "customerId": None,
            "maxConcurrentJobs": cap if key.in_flight_limit is None else min(key.in_flight_limit, cap),
        },
        "apiKey": {"id": who.key_id, "name": key.name, "prefix": key.prefix},
    }


async def _credits(who: Caller, key: AnyRow, upstream_credits: UpstreamCredits) -> int:
    """What the caller may spend: with a test key nothing, and nothing is what its jobs cost."""
    if who.test:
        return 0
    left: int = key.credits_left if key.has_budget else await upstream_credits.left()
    return left


def email(team: str, prefix: str) -> str:
    """An address that nobody has (RFC 2606), the same whenever it is asked for: clients of the upstream want one."""
    slug = re.sub(r"[^a-z0-9]+", "-", team.lower()).strip("-")[:40].rstrip("-") or "team"
    return f"{slug}+{prefix}@framehook.invalid"
