"""The Framehook that a command speaks to: one elsewhere, by its URL and a key, or its application in this process.

Both are asked by the same requests, so every command has one code. In this process nothing listens, no loop runs, and
whoever gives no key is the admin that has a shell here.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

import httpx
from starlette.requests import Request

from app import serving, workers
from app.auth import Caller, KeyRing
from app.cli.inprocess import InProcess
from app.cli.options import Where
from app.cli.terminal import ADMIN, read_settings
from app.context import open_context
from app.errors import StartupError
from app.listen import Note, Source, error_in, explain, open_client
from app.main import create_app, equip

HERE: Final = "http://framehook.invalid"
"""What the application in this process is addressed by; nothing of this name can exist elsewhere (RFC 2606)."""

ANSWER_SECONDS: Final = 60.0
BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Answered(StartupError):
    """An answer that is not a success, in one line."""

    def __init__(self, line: str, response: httpx.Response) -> None:
        super().__init__(line)
        self.status = response.status_code
        seconds = response.headers.get("retry-after", "")
        self.retry_after_seconds = int(seconds) if seconds.isdecimal() else 1


class Unreachable(StartupError):
    """The request may have arrived, or may not: there is no answer."""


class Shell(KeyRing):
    """The keys there are, and in place of none the admin that has a shell here."""

    async def caller_by_key(self, request: Request, key: str, *scopes: str) -> Caller:
        """Whoever a key belongs to. Raises as `caller` does."""
        return await super().caller_by_key(request, key, *scopes) if key else ADMIN


class Service:
    """A Framehook that answers."""

    def __init__(self, http: httpx.AsyncClient, name: str, *, as_admin: bool) -> None:
        """`as_admin`: what is asked is asked by whoever has a shell here, so it has no key and no team."""
        self.http, self.name, self.as_admin = http, name, as_admin

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """What is answered, decoded; raises Answered where that is no success, Unreachable where there is none."""
        async with self.open(method, path, query=query, body=body, headers=headers) as response:
            content = await response.aread()
        try:
            return json.loads(content)
        except ValueError:
            raise StartupError(f"{self.name} does not answer as Framehook does") from None

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """An answer that is still to be read, a success or a redirection; raises as `ask` does, while it is read too."""
        wait = httpx.Timeout(ANSWER_SECONDS, connect=10)
        try:
            asking = self.http.stream(method, path, params=query, content=body, headers=headers, timeout=wait)
            async with asking as response:
                if response.status_code >= 400:
                    await response.aread()
                    raise Answered(self._said(response), response)
                yield response
        except httpx.RequestError as error:
            raise Unreachable(f"{self.name}: {explain(error)}") from None

    def source(self, path: str, *, note: Note, **options: Any) -> Source:
        """The events at a path."""
        return Source(self.http, self.name, path=path, note=note, **options)

    def _said(self, response: httpx.Response) -> str:
        return error_in(response) or f"{self.name} answered {response.status_code}, and not as Framehook does"


@asynccontextmanager
async def reach(where: Where, *, sends: bool = False) -> AsyncIterator[Service]:
    """The Framehook that the options name, for so long. `sends`: it may be asked for what goes upstream.

    Raises StartupError where there is none, or what a database that is away raises.
    """
    key = where.key.strip()
    if not where.url:
        async with _open_here(key, sends=sends) as service:
            yield service
        return
    if not key:
        raise StartupError("a key is needed: --key, or FRAMEHOOK_KEY in the environment")
    async with open_client(where.url, key) as http:
        yield Service(http, where.url.rstrip("/"), as_admin=False)


@asynccontextmanager
async def _open_here(key: str, *, sends: bool) -> AsyncIterator[Service]:
    settings = read_settings()
    if sends:
        serving.check_upstream_key(settings)
    async with open_context(settings) as ctx:
        await ctx.webhook_secrets()  # a database that cannot be used is found before anything is asked
        app = create_app(settings.model_copy(update={"log_level": "error"}))
        equip(app, ctx)
        app.state.keys = Shell(ctx)
        async with workers.running(ctx, loops=False):
            headers = {"X-API-Key": key} if key else {}
            async with httpx.AsyncClient(base_url=HERE, headers=headers, transport=InProcess(app)) as http:
                yield Service(http, "the database", as_admin=not key)
            ctx.begin_closing()
