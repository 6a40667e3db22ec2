"""One POST of a claimed job, and what is to be said of it. No transaction is open while it lasts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.apiframe.client import Answer
from app.apiframe.errors import Refusal, Unclear
from app.apiframe.signature import fingerprint
from app.context import Context
from app.jobs.claim import Claim


@dataclass(frozen=True, slots=True)
class Sent:
    """What came of one POST. `blames_key`: the upstream refuses our key as such, not this request."""

    claim: Claim
    result: Answer | Refusal | Unclear
    started_at: datetime
    ended_at: datetime
    blames_key: bool = False

    @property
    def seconds(self) -> float:
        """How long the upstream took."""
        return (self.ended_at - self.started_at).total_seconds()

    def told(self, verdict: str) -> dict[str, Any]:
        """The attempt for the log and for the job's trace."""
        result, claim = self.result, self.claim
        return {
            "attempt": claim.attempt,
            "seconds": round(self.seconds, 3),
            "verdict": verdict,
            "said": None if isinstance(result, Answer) else str(result),
            "httpStatus": result.status if isinstance(result, Refusal) else None,
            "spelling": str(claim.trail[-1]),
            "wireKey": claim.wire_key,
            "upstreamKey": fingerprint(claim.api_key),
            "requestId": None if isinstance(result, Unclear) else result.request_id,
        }


async def post(ctx: Context, claim: Claim) -> Sent:
    """POST a claimed job; whatever comes of it is in the answer."""
    started_at, blames_key = ctx.now(), False
    deadline = asyncio.get_running_loop().time() + ctx.settings.upstream_timeout_seconds
    result: Answer | Refusal | Unclear
    try:
        result = await ctx.upstream.submit(claim.api_key, claim.operation, claim.body, claim.wire_key)
    except Unclear as unclear:
        result = unclear
    except Refusal as refusal:
        result = refusal
        blames_key = refusal.status == 401 or (
            refusal.status == 403 and await _key_is_refused(ctx, claim.api_key, deadline)
        )
    return Sent(claim, result, started_at, ctx.now(), blames_key)


async def _key_is_refused(ctx: Context, api_key: str, deadline: float) -> bool:
    """Whether a 403 was about our key: then `GET /v2/me` repeats it. No answer is not the caller's fault either.

    The question ends with the attempt that it belongs to, or it would outlast the lease.
    """
    try:
        async with asyncio.timeout_at(deadline):
            await ctx.upstream.me(api_key)
    except Refusal as refusal:
        return refusal.status in (401, 403)
    except (Unclear, TimeoutError):
        return True
    return False
