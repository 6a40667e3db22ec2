"""Who is signed in: a key with the scope `ops` is exchanged for a cookie that any process knows.

Only the cookie's SHA-256 is kept. A session is over when it was not used for a while, when it is old, when somebody ends it,
and within a second of its key's end.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID

from starlette.requests import Request

from app.auth import Caller
from app.context import Context
from app.dashboard import queries
from app.db import AnyRow
from app.errors import Forbidden, NotFound, TooMany, Unauthenticated
from app.http import caller_by_id, caller_by_key, context
from app.teams.audit import note

COOKIE: Final = "framehook_session"
SCOPE: Final = "ops"

IDLE: Final = timedelta(hours=12)
"""A session that was not used for so long is over."""

LONGEST: Final = timedelta(days=14)
"""After so long a session is over, however often it is used."""

ATTEMPTS: Final = 5
ATTEMPTS_PER_SECOND: Final = 1 / 12
"""So many attempts an address has at once, and so many more come with time. One that succeeds gives all of them back."""


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that is signed in. `csrf` is what its forms must hold."""

    id: UUID
    caller: Caller
    csrf: str


async def sign_in(request: Request, key: str) -> str:
    """Begin a session of this key and return its cookie. Raises TooMany, Unauthenticated, Forbidden."""
    ctx = context(request)
    address = request.client.host if request.client else ""
    async with ctx.db.transaction() as tx:
        allowed = await queries.take_attempt(tx, address, ctx.now(), most=ATTEMPTS, per_second=ATTEMPTS_PER_SECOND)
    if not allowed:
        raise TooMany("Too many attempts to sign in", retry_after_seconds=round(1 / ATTEMPTS_PER_SECOND))
    try:
        caller = await caller_by_key(request, key.strip(), SCOPE)
    except Unauthenticated:
        raise Unauthenticated("This key is not known, or not good any more") from None
    except Forbidden:
        raise Forbidden("This key lacks the scope 'ops', which the dashboard asks for") from None
    token = secrets.token_urlsafe(32)
    browser = request.headers.get("user-agent", "")[:300]
    async with ctx.db.transaction() as tx:
        await queries.forget_attempts(tx, address)
        session_id = await queries.insert_session(
            tx, _hash(token), caller.key_id, ctx.now(), address=address, browser=browser
        )
        await note(tx, caller.actor, "session.began", session_id, caller.team_id, address=address)
    return token


async def find_session(request: Request) -> Session:
    """The session of this request. Raises Unauthenticated where there is none, or none any more."""
    token = request.cookies.get(COOKIE, "")
    if not token:
        raise Unauthenticated("Nobody is signed in")
    ctx = context(request)
    now = ctx.now()
    async with ctx.db.reading() as connection:
        found = await queries.find_session(
            connection, _hash(token), used_after=now - IDLE, made_after=now - LONGEST, now=now
        )
    if found is None:
        raise Unauthenticated("The session is over")
    caller = await caller_by_id(request, found.key_id, SCOPE)
    return Session(found.id, replace(caller, on_duty=True), _csrf(token))


async def identify(request: Request) -> Caller:
    """Whoever is signed in, for what goes on longer than a request. Raises Unauthenticated, Forbidden."""
    return (await find_session(request)).caller


async def show_sessions(ctx: Context) -> Sequence[AnyRow]:
    """The sessions that are not over, the one used last first."""
    now = ctx.now()
    async with ctx.db.reading() as connection:
        return await queries.list_sessions(connection, used_after=now - IDLE, made_after=now - LONGEST)


async def end_session(ctx: Context, caller: Caller, session_id: UUID) -> None:
    """End a session, one's own or another's. Raises NotFound."""
    async with ctx.db.transaction() as tx:
        ended = await queries.delete_session(tx, session_id)
        if ended is None:
            raise NotFound("Session not found")
        await note(tx, caller.actor, "session.ended", session_id, ended.team_id)


def check_csrf(session: Session, given: str) -> None:
    """Raise Forbidden unless a form came from a page of this session."""
    if not hmac.compare_digest(session.csrf.encode(), given.encode()):
        raise Forbidden("This form is not from a page of yours. Reload the page and try again")


def check_origin(request: Request) -> None:
    """Raise Forbidden where a browser says that a form stands on somebody else's page."""
    origin = request.headers.get("origin")
    ours = {request.headers.get("host", ""), urlsplit(context(request).settings.base_url).netloc}
    if origin is not None and origin.partition("://")[2] not in ours:
        raise Forbidden("This form is from somebody else's page")


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _csrf(token: str) -> str:
    """What only a page of the session can know, and that does not tell the cookie."""
    return base64.urlsafe_b64encode(hmac.digest(token.encode(), b"framehook forms", "sha256")).rstrip(b"=").decode()
