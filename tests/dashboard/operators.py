"""An operator without a browser: a client with a session, that fills in the forms of the pages that it reads."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from dataclasses import dataclass
from html import unescape
from uuid import UUID

import httpx

from app.teams.keys import create_key
from tests.harness import NO_TLS, Service


@dataclass(frozen=True)
class Operator:
    """A client with a session."""

    http: httpx.AsyncClient
    key: str
    key_id: UUID

    async def read(self, path: str, status: int = 200) -> str:
        """A page's HTML."""
        answer = await self.http.get(path)
        assert answer.status_code == status, f"{answer.status_code} {answer.text[:500]}"
        return answer.text

    async def act(self, path: str, *, on: str = "/ops/audit", **fields: str | list[str]) -> httpx.Response:
        """Send a form with the token of a page; the answer, redirects not followed."""
        token = csrf_of(await self.read(on))
        return await self.http.post(path, data={"csrf": token, **fields})


def csrf_of(html: str) -> str:
    """The token of a page's forms."""
    found = re.search(r'name="csrf" value="([^"]+)"', html)
    assert found, html[:500]
    return unescape(found[1])


async def sign_in(
    stack: AsyncExitStack, service: Service, *, team: str = "operators", scopes: tuple[str, ...] = ("ops",)
) -> Operator:
    """Make a key, and sign in with it."""
    async with service.ctx.db.transaction() as tx:
        made = await create_key(tx, team=team, scopes=scopes, now=service.ctx.now(), name="dashboard")
    http = await stack.enter_async_context(
        httpx.AsyncClient(base_url=service.url, trust_env=False, timeout=60, verify=NO_TLS)
    )
    answer = await http.post("/ops/sign-in", data={"key": made.key})
    assert answer.status_code == 303, answer.text
    return Operator(http, made.key, made.id)
