"""What goes wrong, and how often. A plan names the faults; dice thrown from the seed say which requests they strike."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from typing import Annotated, Literal

from msgspec import Meta

Probability = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(ge=0)]


@dataclass(frozen=True, kw_only=True)
class FaultPlan:
    """Every fault with its probability, and the few numbers that shape them.

    Those that strike a submission may also be scripted: `next` lists one entry per coming submission, each a fault's
    name, several joined by `+`, or `none`. A scripted submission throws no dice of its own.
    """

    # Any request to the vendor's API.
    down: Probability = 0.0
    unauthorized: Probability = 0.0
    forbidden: Probability = 0.0
    # A submission, or an asset or LoRA, refused: nothing was accepted.
    rate_limited: Probability = 0.0
    server_error: Probability = 0.0
    no_credits: Probability = 0.0
    cap_reached: Probability = 0.0
    # The same, accepted: but its answer says something else, or nothing.
    accept_then_hang: Probability = 0.0
    accept_then_cut: Probability = 0.0
    accept_then_error: Probability = 0.0
    # The job.
    fail: Probability = 0.0
    cancel: Probability = 0.0
    # The job's webhooks. `early` and `reorder` strike all of a job's, the others each by itself.
    early: Probability = 0.0
    reorder: Probability = 0.0
    no_webhooks: Probability = 0.0
    drop: Probability = 0.0
    double: Probability = 0.0
    late: Probability = 0.0
    unsigned: Probability = 0.0
    wrong_signature: Probability = 0.0
    no_retries: Probability = 0.0
    # Reading.
    read_rate_limited: Probability = 0.0
    read_server_error: Probability = 0.0
    file_error: Probability = 0.0

    down_by: Literal["answer", "cut"] = "answer"
    retry_after_seconds: Annotated[int, Meta(ge=0)] = 1
    server_error_statuses: tuple[int, ...] = (503, 502, 500)
    hang_seconds: Seconds | None = None
    late_seconds: Seconds = 2.0
    early_events: tuple[Literal["progress", "completed"], ...] = ("progress", "completed")
    stale_read_seconds: Seconds = 0.0
    next: tuple[str, ...] = ()


ON_SUBMISSION = (
    "rate_limited",
    "server_error",
    "no_credits",
    "cap_reached",
    "accept_then_hang",
    "accept_then_cut",
    "accept_then_error",
    "fail",
    "cancel",
    "early",
    "reorder",
)
NAMES = frozenset(field.name for field in fields(FaultPlan) if field.type == "Probability")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One submission as it arrived: its number since the start, and the faults that strike it."""

    serial: int
    faults: frozenset[str]


def roll(seed: int, *names: object) -> float:
    """Throw the die of these names: a number in [0, 1) that depends on nothing else."""
    text = ":".join(str(name) for name in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def strikes(plan: FaultPlan, seed: int, fault: str, *names: object) -> bool:
    """Whether a fault strikes the thing of these names. Probability 1 always does, 0 never."""
    probability: float = getattr(plan, fault)
    return probability > 0 and roll(seed, fault, *names) < probability


def scripted(entry: str) -> frozenset[str]:
    """Read one entry of `next`; raise ValueError where it names no fault."""
    names = frozenset(name.strip() for name in entry.split("+")) - {"none"}
    unknown = names - NAMES
    if unknown:
        raise ValueError(f"next: no fault is called {', '.join(sorted(unknown))}")
    return names
