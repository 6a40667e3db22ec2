"""Take a slot, a lease and the frozen wire of a job: what must be committed before it is sent.

All counting happens under the lock of the upstream account's row, in a statement of its own: slots are rows, not numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncConnection

from app.apiframe.errors import Refusal
from app.apiframe.signature import fingerprint, webhook_url
from app.apiframe.spelling import POLL_ONLY, Spelling, next_spelling
from app.context import Context
from app.db import AnyRow
from app.jobs import breaker
from app.jobs.queries import account, dispatch
from app.jobs.queries import breaker as queries
from app.jobs.queries.dispatch import Sending
from app.jobs.requests import allowance, spend
from app.jobs.schedule import AMBIGUOUS_WINDOW

DEFAULT_CAP: Final = 10
"""Jobs in flight where neither the setting nor `GET /v2/me` says (the docs' example plan)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A job that this process is to send now, under a lease."""

    job_id: UUID
    lease: UUID
    operation: str
    body: bytes
    wire_key: str
    trail: tuple[Spelling, ...]  # the spellings tried so far; the last one is in `body`
    webhook_url: str | None
    api_key: str
    remembered: bool  # all processes know already that this spelling works
    troubled: bool  # the key was held lately, so that a success is news
    probe: bool  # it goes first, and the others wait for what comes of it
    attempt: int  # how often the job was claimed, this time included

    def respelled(self, refusal: Refusal) -> Claim:
        """The same job under another spelling and a derived key, which is safe since the upstream holds none of it."""
        spelling = next_spelling(self.trail, refusal.body)
        trail = (*self.trail, spelling)
        body = spelling.respelled(self.body, self.webhook_url)
        wire_key = f"{self.job_id}:{len(trail)}"
        return replace(self, body=body, trail=trail, wire_key=wire_key, remembered=False, attempt=self.attempt + 1)


async def claim_inline(ctx: Context, tx: AsyncConnection, job_ids: Sequence[UUID]) -> list[Claim | None]:
    """Claim those of these jobs whose turn it is."""
    claims = {claim.job_id: claim for claim in await claim_jobs(ctx, tx, wanted=job_ids)}
    return [claims.get(job_id) for job_id in job_ids]


async def claim_jobs(ctx: Context, tx: AsyncConnection, *, wanted: Sequence[UUID] | None = None) -> list[Claim]:
    """Lease jobs up to the cap, freezing the wire of those that were never sent. Holds the account's row until commit.

    Nothing while dispatch is paused; nothing under a key that is held, and one job under a key that has to be probed;
    never more than this process can start now, nor than the request limit leaves, less one for whoever asks after jobs.
    """
    now = ctx.now()
    state = await account.lock_account(tx, ctx.account, now)
    troubled = await queries.list_troubled(tx, ctx.account)
    keys = breaker.sendable(troubled, ctx.upstream_keys, now)
    allowed = allowance(ctx, state)
    most = min(max(allowed - 1, 1) if allowed >= 1 else 0, ctx.upstream.free_submissions)
    if state.paused_at is not None or not keys or not most:
        return []
    rows = await dispatch.lock_dispatchable(
        tx,
        account=ctx.account,
        cap=_cap(ctx, state, now),
        keys=keys,
        fresh=fingerprint(ctx.upstream_key) in keys,
        wanted=wanted,
        now=now,
        ambiguous_after=now - AMBIGUOUS_WINDOW,
    )
    known = Spelling(state.webhook_field, state.webhook_events) if state.webhook_field else None
    secrets = await ctx.webhook_secrets()
    claims = [_freeze(ctx, row, known, secrets[0], troubled) for row in rows[: int(min(most, len(rows)))]]
    claims = await _one_probe_a_key(ctx, tx, claims)
    await lease(ctx, tx, claims)
    await spend(ctx, tx, allowed, len(claims))
    return claims


def _cap(ctx: Context, state: AnyRow, now: datetime) -> int:
    cap = ctx.settings.max_in_flight or state.cap or DEFAULT_CAP
    lowered = state.cap_lowered_until is not None and state.cap_lowered_until > now
    return min(cap, state.cap_lowered_to) if lowered else cap


async def _one_probe_a_key(ctx: Context, tx: AsyncConnection, claims: Sequence[Claim]) -> list[Claim]:
    """Keep one claim of each key that has to be probed, which holds that key for as long as its lease."""
    probes = {claim.api_key: claim for claim in reversed(claims) if claim.probe}
    until = ctx.now() + timedelta(seconds=ctx.settings.lease_seconds)
    for api_key in probes:
        await queries.begin_probe(tx, ctx.account, fingerprint(api_key), until=until, now=ctx.now())
    return [claim for claim in claims if not claim.probe or probes[claim.api_key] is claim]


def _freeze(ctx: Context, row: AnyRow, known: Spelling | None, secret: bytes, troubled: Mapping[str, AnyRow]) -> Claim:
    """The wire as it was frozen by the first claim, or else as it is frozen by this one.

    A job that was certainly never received may go under the current key; any other only under the key that sent it.
    """
    base_url = None if ctx.settings.poll_only else ctx.settings.public_base_url
    url = webhook_url(base_url, secret, row.id) if base_url else None
    if row.wire_key is None:
        trail: tuple[Spelling, ...] = (_begin_with(ctx, known) if url else POLL_ONLY,)
        body, wire_key = trail[0].respelled(row.wire_body, url), str(row.id)
    else:
        trail = tuple(Spelling.parse(text) for text in row.wire_webhook.split())
        body, wire_key = bytes(row.wire_body), row.wire_key
    api_key = ctx.upstream_key if row.ambiguous_since is None else ctx.upstream_keys[row.upstream_key]
    return Claim(
        job_id=row.id,
        lease=uuid4(),
        operation=row.operation,
        body=body,
        wire_key=wire_key,
        trail=trail,
        webhook_url=url,
        api_key=api_key,
        remembered=trail[-1] == known,
        troubled=fingerprint(api_key) in troubled,
        probe=fingerprint(api_key) in troubled and troubled[fingerprint(api_key)].must_probe,
        attempt=row.dispatch_count + 1,
    )


def _begin_with(ctx: Context, known: Spelling | None) -> Spelling:
    pinned = ctx.settings.webhook_field
    if pinned != "auto":
        return Spelling(pinned, known.events if known else True)
    return known or Spelling("webhook_url")


async def lease(ctx: Context, tx: AsyncConnection, claims: Sequence[Claim]) -> None:
    """Write the wire and the lease of these jobs, which the transaction holds locked, before anything is sent."""
    sendings = [
        Sending(
            id=claim.job_id,
            lease=claim.lease,
            wire_body=claim.body,
            wire_key=claim.wire_key,
            wire_webhook=" ".join(str(spelling) for spelling in claim.trail),
            upstream_key=fingerprint(claim.api_key),
        )
        for claim in claims
    ]
    now = ctx.now()
    await dispatch.lease_jobs(tx, sendings, now=now, until=now + timedelta(seconds=ctx.settings.lease_seconds))
