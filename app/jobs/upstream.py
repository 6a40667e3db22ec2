"""What is to be known of the upstream account before jobs need it: its cap and how it spells the webhook field."""

from __future__ import annotations

import structlog

from app.apiframe.errors import Refusal, Unclear
from app.apiframe.spelling import documented_field
from app.apiframe.wire import cap_of
from app.context import Context
from app.jobs.queries import account

log = structlog.get_logger()


async def refresh_once(ctx: Context) -> int:
    """Ask `GET /v2/me` for the cap and, where no spelling is known yet, the OpenAPI document for it. Always returns 0."""
    cap = await _ask_cap(ctx)
    field = await _ask_spelling(ctx)
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


async def _ask_spelling(ctx: Context) -> str | None:
    try:
        return documented_field((await ctx.upstream.document()).payload)
    except (Refusal, Unclear) as error:
        log.info("upstream.undocumented", said=str(error))
        return None


async def note_trouble(ctx: Context, trouble: str) -> None:
    """Keep what an operator should know of the upstream; readiness shows it for a while."""
    async with ctx.db.transaction() as tx:
        await account.note_trouble(tx, ctx.account, trouble, ctx.now())


async def set_paused(ctx: Context, team: str | None, *, paused: bool) -> bool:
    """Stop dispatch for a team, or for everybody, or let it go on; acceptance goes on in any case.

    False if there is no team of that name.
    """
    now = ctx.now()
    since = now if paused else None
    async with ctx.db.transaction() as tx:
        if team is not None:
            return await account.set_team_paused(tx, team, since=since)
        await account.lock_account(tx, ctx.account, now)
        await account.set_paused(tx, ctx.account, since=since, now=now)
    return True
