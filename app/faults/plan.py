"""What a run is to do, drawn from its seed: the same seed gives the same submissions, kills and dice of the upstream.

When the operating system runs which process is no part of that, so a run is never repeated to the letter.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from app.config import Settings, load_settings
from app.simulator.config import SimulatorConfig
from app.simulator.faults import FaultPlan

Kind = Literal["service", "worker", "postmaster", "everything"]

KINDS: Final[tuple[Kind, ...]] = ("service", "worker", "postmaster", "everything", "service", "worker")
"""Who is killed, by turns before the seed shuffles them: three kills already hit one of each."""

TEAMS: Final = ("design", "marketing", "research")
IN_FLIGHT: Final = 120
"""Jobs running upstream at once, the same by our setting and by the upstream's cap."""

ASYNC_SHARE: Final = 0.3
"""Of the submissions, those that do not wait for the upstream: the loops send them."""

FOLLOW_UP_SHARE: Final = 0.25
"""Of the kills, those that follow the one before within seconds and so strike what is just starting again."""

FAULTS: Final = FaultPlan(
    rate_limited=0.02,
    server_error=0.02,
    accept_then_hang=0.02,
    accept_then_cut=0.03,
    accept_then_error=0.03,
    fail=0.03,
    cancel=0.02,
    early=0.02,
    reorder=0.04,
    drop=0.05,
    double=0.05,
    late=0.03,
    unsigned=0.03,
    wrong_signature=0.02,
    no_retries=0.1,
    hang_seconds=5,
    late_seconds=2,
)

_SUBJECTS: Final = ("a lighthouse", "a harbour", "an orchard", "a mountain hut", "a tram", "a market", "a heron")
_MANNERS: Final = ("in a storm", "at dawn", "in snow", "after the rain", "at night", "in fog")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the command was asked for."""

    jobs: int = 5000
    kills: int = 24
    seed: int = 0
    processes: int = 2


@dataclass(frozen=True, slots=True)
class Submission:
    """One generation that a caller wants. Its prompt and its key occur once in the whole run."""

    key: str
    prompt: str
    team: str
    respond_async: bool


@dataclass(frozen=True, slots=True)
class Strike:
    """A kill: whom (`victim` picks one of several), at how many acknowledgements, and so many seconds later."""

    kind: Kind
    victim: int
    after: int
    delay_seconds: float


def submissions(plan: Plan) -> list[Submission]:
    """Draw what is submitted."""
    dice = random.Random(f"submissions {plan.seed}")
    return [
        Submission(
            key=f"faults-{plan.seed}-{number}",
            prompt=f"{dice.choice(_SUBJECTS)} {dice.choice(_MANNERS)}, sheet {number} of run {plan.seed}",
            team=dice.choice(TEAMS),
            respond_async=dice.random() < ASYNC_SHARE,
        )
        for number in range(plan.jobs)
    ]


def strikes(plan: Plan) -> list[Strike]:
    """Draw who is killed and when, first to last, between the first submissions and nine tenths of them."""
    dice = random.Random(f"strikes {plan.seed}")
    kinds = [KINDS[number % len(KINDS)] for number in range(plan.kills)]
    dice.shuffle(kinds)
    instants = sorted(dice.uniform(0.02, 0.9) * plan.jobs for _ in kinds)
    drawn: list[Strike] = []
    for kind, instant in zip(kinds, instants, strict=True):
        follows = bool(drawn) and dice.random() < FOLLOW_UP_SHARE
        after, longest = (drawn[-1].after, 3.0) if follows else (int(instant), 1.0)
        drawn.append(Strike(kind, dice.randrange(plan.processes), after, dice.uniform(0, longest)))
    return drawn


def simulator_config(plan: Plan) -> SimulatorConfig:
    """The upstream: quick, as full of faults as real ones are on a bad day, and forgetting nothing."""
    return SimulatorConfig(
        seed=plan.seed,
        queue_seconds=0.05,
        generate_seconds=0.2,
        progress_steps=(50,),
        credits=100 * plan.jobs,
        max_concurrent_jobs=IN_FLIGHT,
        books_kept=max(50_000, 50 * plan.jobs),
        faults=FAULTS,
    )


def settings_for(upstream_url: str, data_dir: Path) -> Settings:
    """The service's settings but for its address: impatient ones, so that leases and waits end within the run.

    Nothing of the environment or of an `.env` is in them.
    """
    return load_settings(_env_file=None, **_chosen(upstream_url, data_dir))


def environment_for(upstream_url: str, data_dir: Path, public_base_url: str) -> dict[str, str]:
    """The same as environment variables of a process that is reached at this address."""
    chosen = _chosen(upstream_url, data_dir) | {"public_base_url": public_base_url, "log_format": "json"}
    usual = ("public_base_url", "apiframe_base_url")
    return {
        name.upper() if name in usual else f"FRAMEHOOK_{name.upper()}": _written(value)
        for name, value in chosen.items()
        if value is not None and value != ()
    }


def _written(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _chosen(upstream_url: str, data_dir: Path) -> dict[str, Any]:
    return {
        "database_url": None,
        "direct_database_url": None,
        "public_base_url": None,
        "apiframe_api_key": None,
        "apiframe_previous_api_keys": (),
        "apiframe_base_url": upstream_url,
        "allowed_targets": ("127.0.0.0/8",),  # where the run's subscriber is
        "data_dir": data_dir,
        "archive_url": "off",  # to draw a picture for every job would take more time than all the rest
        "max_in_flight": IN_FLIGHT,
        "inline_seconds": 1.0,
        "upstream_timeout_seconds": 1.5,
        "reconcile_after_seconds": 1.0,
        "sweep_seconds": 0.5,
        "log_level": "info",
    }
