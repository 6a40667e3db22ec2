"""What a definite refusal means for a job. Pure."""

from __future__ import annotations

from typing import Final, Literal

from app.apiframe.errors import Refusal
from app.apiframe.spelling import names_webhook_fields

Fate = Literal["respell", "tell", "end", "wait", "wait for credits", "pause"]

TELLING: Final = frozenset({400, 402, 403, 409})
"""Refusals that are about the request and that its caller can act on. Any other is the upstream's trouble, or ours."""

_CODES: Final = {402: "insufficient_credits", 403: "forbidden", 404: "not_found", 409: "conflict"}


def fate_of(
    refusal: Refusal,
    *,
    first: bool,
    refusable: bool,
    blames_key: bool,
    carries_webhook: bool,
    goes_on: bool = False,
) -> Fate:
    """Decide what a 4xx does to the job that met it.

    `first`: no earlier attempt may have been received; otherwise the upstream may hold the job, and we wait for its word.
    `refusable`: the caller still waits and nobody was told 202. `blames_key`: our key as such is refused.
    `goes_on`: it is an action, of which a 404 that speaks of the parent says that the upstream does not have that any more.
    """
    if blames_key:
        return "pause"
    telling = TELLING | {404} if goes_on and "parent" in refusal.text.lower() else TELLING
    if not first or refusal.status not in telling:
        return "wait"
    if refusal.status == 400 and carries_webhook and names_webhook_fields(refusal.body):
        return "respell"
    if refusable:
        return "tell"
    return "wait for credits" if refusal.status == 402 else "end"


def error_code(refusal: Refusal) -> str:
    """Our code for a job that ended by this refusal."""
    return _CODES.get(refusal.status, "upstream_rejected")
