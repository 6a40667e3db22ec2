"""The upstream's own document and list of models: fetched, kept in the database for all processes, known to each.

The document is public, asked for at start, daily, and when somebody names a model that it lacks. A process looks into the
database at most once a minute, or when it is nudged, and never waits for the upstream on the way.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

import msgspec
import structlog
from sqlalchemy.exc import DBAPIError

from app.apiframe.client import Answer
from app.apiframe.errors import Refusal, Unclear
from app.apiframe.rules import Rules
from app.context import Context, Rulebook
from app.db import OUTAGES
from app.jobs.queries import catalog

log = structlog.get_logger()

TOPIC: Final = "catalog"
LOOK_AGAIN: Final = timedelta(seconds=60)
RECENT: Final = timedelta(minutes=5)
"""So young a document is not asked for again, whatever it lacks."""

DAILY: Final = timedelta(days=1)
PATIENCE_SECONDS: Final = 5.0
"""How long a submission waits for a new document."""


async def refresh_once(ctx: Context) -> int:
    """Ask for what is older than a day, or not quite new when this process starts. Always returns 0."""
    async with ctx.db.reading() as connection:
        ages = await catalog.find_ages(connection, ctx.account)
    book, now = ctx.rulebook, ctx.now()
    oldest = now - (DAILY if book.refreshed else RECENT)
    if ages is None or _is_before(ages.document_at, oldest):
        await ask_document(ctx)
    if ages is None or _is_before(ages.models_at, oldest):
        await _ask_models(ctx)
    book.refreshed = True
    return 0


async def ask_document(ctx: Context) -> Answer | Refusal | Unclear:
    """Ask the upstream for its document, keep it, and tell what came of it. All who ask meanwhile share the question."""
    book = ctx.rulebook
    if book.asking is None or book.asking.done():
        book.asking = ctx.start(_ask_document(ctx))
    return await asyncio.shield(book.asking)


async def _ask_document(ctx: Context) -> Answer | Refusal | Unclear:
    try:
        answer = await ctx.upstream.document()
    except (Refusal, Unclear) as error:
        log.info("upstream.undocumented", said=str(error))
        return error
    if Rules(answer.payload).describe_submissions:
        await _keep(ctx, answer)
    else:
        log.warning("catalog.unusable", error="the document describes no submissions")
    return answer


async def _keep(ctx: Context, answer: Answer) -> None:
    document, digest = msgspec.json.encode(answer.payload).decode(), hashlib.sha256(answer.raw).digest()
    try:
        async with ctx.db.transaction() as tx:
            changed = await catalog.store_document(tx, ctx.account, document, digest, ctx.now())
    except (DBAPIError, *OUTAGES) as error:  # whoever asked goes on without, and jobs are sent all the same
        log.warning("catalog.not_kept", error=str(error)[:200])
        return
    if changed:
        log.info("catalog.changed", account=ctx.account, digest=digest.hex()[:12])
        ctx.notify.nudge([TOPIC])


async def _ask_models(ctx: Context) -> None:
    try:
        answer = await ctx.upstream.models()
    except (Refusal, Unclear) as error:
        log.info("upstream.undocumented", asked="/v2/models", said=str(error))
        return
    async with ctx.db.transaction() as tx:
        await catalog.store_models(tx, ctx.account, msgspec.json.encode(answer.payload).decode(), ctx.now())


async def current_rules(ctx: Context) -> Rules | None:
    """What the document that is kept says of submissions; None while there is none."""
    book = ctx.rulebook
    if _is_due(ctx, book):
        async with book.looking:
            if _is_due(ctx, book):
                await _look(ctx, book)
    return book.rules


async def rules_of_today(ctx: Context) -> Rules | None:
    """The same after another look at the upstream's document, unless it was read or asked for within five minutes."""
    book = ctx.rulebook
    if _is_old(ctx, book):
        async with book.renewing:
            if _is_old(ctx, book):
                await _renew(ctx, book)
    return book.rules


async def _renew(ctx: Context, book: Rulebook) -> None:
    async with book.looking:
        await _look(ctx, book)  # another process may have asked
    if not _is_old(ctx, book):
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            await ask_document(ctx)
    async with book.looking:
        await _look(ctx, book)
    book.renewed_at = ctx.now()


def _is_due(ctx: Context, book: Rulebook) -> bool:
    return book.nudged.is_set() or book.looked_at is None or not ctx.now() < book.looked_at + LOOK_AGAIN


def _is_old(ctx: Context, book: Rulebook) -> bool:
    return all(_is_before(at, ctx.now() - RECENT) for at in (book.read_at, book.renewed_at))


def _is_before(at: datetime | None, limit: datetime) -> bool:
    return at is None or at < limit


async def _look(ctx: Context, book: Rulebook) -> None:
    book.nudged.clear()
    async with ctx.db.reading() as connection:
        found = await catalog.find_document(connection, ctx.account, book.digest)
    book.looked_at = ctx.now()
    if found is None:
        return
    book.read_at = found.document_at
    if found.document is not None:
        book.rules, book.digest = Rules(msgspec.json.decode(found.document)), bytes(found.document_digest)
