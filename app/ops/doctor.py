"""Check an installation from where it stands: settings that belong together, the database, the upstream, the way back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
from sqlalchemy import text

from app import migrate, partitions
from app.apiframe.errors import Refusal, Unclear
from app.config import Settings
from app.context import Context, open_database
from app.db import OUTAGES
from app.errors import StartupError
from app.objects import StorageFailed

OLDEST_POSTGRES: Final = 15
REACH_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Finding:
    """One check, its verdict, and what to do about it."""

    check: str
    verdict: Literal["ok", "warning", "failed"]
    text: str


async def examine(settings: Settings) -> list[Finding]:
    """Run every check; a failed one does not keep the others from running."""
    findings = list(_check_settings(settings))
    try:
        async with open_database(settings) as database:
            ctx = Context(settings, database)
            try:
                findings += [finding async for finding in _check_database(ctx)]
                findings += [finding async for finding in _check_upstream(ctx)]
                findings.append(await _check_storage(ctx))
            finally:
                await ctx.upstream.close()
    except StartupError as error:
        findings.append(Finding("database", "failed", str(error)))
    findings += [finding async for finding in _check_way_back(settings)]
    return findings


def _check_settings(settings: Settings) -> list[Finding]:
    findings = []
    if settings.apiframe_api_key is None:
        verdict, words = (
            ("ok", "not set, which an upstream on this machine allows")
            if settings.upstream_is_local
            else ("failed", "APIFRAME_API_KEY is not set")
        )
        findings.append(Finding("upstream key", verdict, words))  # type: ignore[arg-type]
    if settings.poll_only:
        words = "PUBLIC_BASE_URL is unset or loopback: poll-only, jobs complete by asking"
        findings.append(Finding("webhooks", "warning", words))
    elif urlsplit(settings.public_base_url or "").scheme == "http" and not settings.upstream_is_local:
        findings.append(Finding("webhooks", "warning", "PUBLIC_BASE_URL is http: webhooks travel in the clear"))
    if settings.direct_database_url and not settings.database_url:
        words = "FRAMEHOOK_DIRECT_DATABASE_URL is set without DATABASE_URL and is not used"
        findings.append(Finding("database", "warning", words))
    return findings


async def _check_database(ctx: Context) -> AsyncIterator[Finding]:
    try:
        async with ctx.db.reading() as connection:
            version = int((await connection.execute(text("SHOW server_version_num"))).scalar_one()) // 10_000
        revision, newest = await migrate.current_revision(ctx.db), migrate.newest_revision()
        verdict: Literal["ok", "failed"] = "ok" if version >= OLDEST_POSTGRES else "failed"
        yield Finding("database", verdict, f"PostgreSQL {version}; {OLDEST_POSTGRES} or newer is needed")
        if revision != newest:
            yield _unmigrated(ctx, revision or "nothing", newest)
            return
        yield Finding("migrations", "ok", f"at {revision}")
        async with ctx.db.reading() as connection:
            absent = await partitions.list_missing(connection, ctx.now(), days=partitions.ALARM_DAYS)
        days = f"the next {partitions.ALARM_DAYS} days"
        yield Finding(
            "partitions", "failed" if absent else "ok", f"{len(absent)} missing for {days}" if absent else f"for {days}"
        )
    except OUTAGES as error:
        yield Finding("database", "failed", f"cannot be reached: {error}".splitlines()[0])


def _unmigrated(ctx: Context, revision: str, newest: str) -> Finding:
    if ctx.settings.database_url is None:
        return Finding(
            "migrations", "ok", f"at {revision}; an embedded database is brought to {newest} by its next start"
        )
    return Finding("migrations", "failed", f"at {revision}, {newest} is needed: framehook migrate")


async def _check_upstream(ctx: Context) -> AsyncIterator[Finding]:
    if ctx.settings.apiframe_api_key is None and not ctx.settings.upstream_is_local:
        return
    try:
        answer = await ctx.upstream.me(ctx.upstream_key)
    except Refusal as refusal:
        yield Finding("upstream", "failed", f"{ctx.account} refuses the key: {refusal}")
    except Unclear as unclear:
        yield Finding("upstream", "failed", f"{ctx.account}: {unclear}")
    else:
        team = answer.payload.get("team")
        name = team.get("name") if isinstance(team, dict) else None
        yield Finding("upstream", "ok", f"{ctx.account} knows the key" + (f", team {name}" if name else ""))


async def _check_storage(ctx: Context) -> Finding:
    """Write an object, read it and remove it, as the archive does."""
    if ctx.objects is None:
        return Finding("archive", "warning", "off: the upstream purges result files after 24 hours")
    name, data = f"doctor/{uuid4()}", b"written to see whether files can be kept here"
    try:
        await ctx.objects.put_bytes(name, data)
        whole = await ctx.objects.get(name, 0, len(data)) == data
        await ctx.objects.remove([name])
    except StorageFailed as error:
        # Of a bucket's credentials nothing is read from `.env`: its library knows only the environment.
        hint = "" if ctx.objects.url.startswith("file:") else "; its credentials are taken from the environment alone"
        return Finding("archive", "failed", f"{ctx.objects.url}: {error}{hint}")
    if not whole:
        return Finding("archive", "failed", f"{ctx.objects.url} does not give back what was written")
    return Finding("archive", "ok", f"{ctx.objects.url} can be written, read and removed")


async def _check_way_back(settings: Settings) -> AsyncIterator[Finding]:
    """Only a warning: a router may not let this machine reach itself by its public name."""
    if settings.public_base_url is None:
        return
    url = f"{settings.public_base_url}/healthz"
    try:
        async with httpx.AsyncClient(timeout=REACH_SECONDS) as client:
            answer = await client.get(url)
    except httpx.HTTPError as error:
        yield Finding("way back", "warning", f"{url} was not reached from here: {error}".rstrip(": "))
        return
    if answer.status_code == 200 and answer.text == '{"status":"ok"}':
        yield Finding("way back", "ok", f"{url} answers")
    else:
        yield Finding("way back", "warning", f"{url} answers {answer.status_code}, not like this service")
