"""What is to be known of the upstream account before jobs need it: its cap and how it spells the webhook field."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from app.apiframe.client import Answer
from app.apiframe.errors import Refusal, Unclear
from app.apiframe.spelling import documented_field
from app.apiframe.wire import cap_of
from app.context import Context
from app.jobs.documents import ask_document
from app.jobs.queries import account
from app.teams import audit, teams

log = structlog.get_logger()

INTRODUCTIONS: Final = 5
"""How often an upstream is asked for its document before jobs are sent without it."""


async def refresh_once(ctx: Context) -> int:
    """Ask `GET /v2/me` for the cap and, where no spelling is known yet, the OpenAPI document for it. Always returns 0."""
    cap = await _ask_cap(ctx)
    async with ctx.db.reading() as connection:
        is_known = await account.find_spelling(connection, ctx.account) is not None
    said = None if is_known else await ask_document(ctx)
    field = documented_field(said.payload) if isinstance(said, Answer) else None
    async with ctx.db.transaction() as tx:
        known = await account.lock_account(tx, ctx.account, ctx.now())
        await account.update_account(tx, ctx.account, cap=cap, webhook_field=field, now=ctx.now())
    if cap != known.cap or (field and not known.webhook_field):
        log.info("upstream.learned", account=ctx.account, cap=cap, webhook_field=known.webhook_field or field)
    return 0


async def _ask_cap(ctx: Context) -> int | None:
    try:
        return cap_of((await ctx.upstream.me(ctx.upstream_key)).payload)
    except (Refusal, Unclear) as error:
        log.warning("upstream.unknown", asked="/v2/me", said=str(error))
        return None


async def is_introduced(ctx: Context) -> bool:
    """Whether jobs may be sent: the upstream was asked how it spells the webhook field, or need not be.

    A job whose first answer is lost stays with the spelling it was sent with, so a wrong guess would hold it for good.
    An upstream that says nothing of it is asked a few times, then its first job has to find out. All who wait share one
    question.
    """
    if ctx.settings.poll_only or ctx.settings.webhook_field != "auto":
        return True
    if ctx.introduction is None or (ctx.introduction.done() and not _introduced(ctx.introduction)):
        ctx.introduction = ctx.start(_introduce(ctx))
    return await asyncio.shield(ctx.introduction)


def _introduced(asked: asyncio.Task[bool]) -> bool:
    return not asked.cancelled() and asked.exception() is None and asked.result()


async def _introduce(ctx: Context) -> bool:
    async with ctx.db.reading() as connection:
        if await account.find_spelling(connection, ctx.account) is not None:
            return True
    said = await ask_document(ctx)
    if isinstance(said, Unclear):
        ctx.introductions_failed += 1
        return ctx.introductions_failed >= INTRODUCTIONS
    field = documented_field(said.payload) if isinstance(said, Answer) else None
    if field is not None:
        async with ctx.db.transaction() as tx:
            await account.lock_account(tx, ctx.account, ctx.now())
            await account.update_account(tx, ctx.account, cap=None, webhook_field=field, now=ctx.now())
    return True


async def note_trouble(ctx: Context, trouble: str) -> None:
    """Keep what an operator should know of the upstream; readiness shows it for a while."""
    async with ctx.db.transaction() as tx:
        await account.note_trouble(tx, ctx.account, trouble, ctx.now())


async def set_paused(ctx: Context, team: str | None, *, paused: bool, actor: str = "cli") -> bool:
    """Stop dispatch for a team, or for everybody, or let it go on; acceptance goes on in any case.

    False if there is no team of that name. `actor` is who does it, for the audit log.
    """
    now = ctx.now()
    async with ctx.db.transaction() as tx:
        if team is not None:
            return await teams.apply_by_name(tx, actor, team, {"paused": paused}, now)
        await account.lock_account(tx, ctx.account, now)
        await account.set_paused(tx, ctx.account, since=now if paused else None, now=now)
        await audit.note(tx, actor, "dispatch.paused" if paused else "dispatch.resumed", ctx.account)
    return True
