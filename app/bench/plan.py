"""What a run measures, for how long, and in which order: the order is drawn from the seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from app.errors import StartupError

Item = TypeVar("Item")

KINDS: Final = ("webhook", "submit")
VARIANTS: Final = ("processes", "loops", "naive")
"""What the service is compared with in its rounds: several processes, one without loops, one written the usual way."""

MEASURES: Final = ("idle", "deliveries", "latency", "sse", "read", "single", *KINDS, *VARIANTS, "open", "soak")
"""What `--only` may name, in the order in which it is measured."""

USUAL: Final = tuple(name for name in MEASURES if name not in ("loops", "soak"))
"""What is measured where nothing is named."""

CONNECTIONS: Final = 64
LIMIT_CLIENTS: Final = 32
BATCH: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the command was asked for. `seconds` is the length of one round of the service."""

    seconds: float = 5.0
    rounds: int = 4
    processes: int = 2
    seed: int = 0
    quick: bool = False
    only: tuple[str, ...] = MEASURES

    @property
    def limit_seconds(self) -> float:
        """The length of one measurement of the limit; pgbench knows whole seconds only."""
        return float(max(1, round(self.seconds * 0.6)))

    def wants(self, *measures: str) -> bool:
        """Whether any of these is to be measured."""
        return bool(set(measures) & set(self.only))

    def wants_rounds(self, kind: str) -> bool:
        """Whether there are rounds of a kind: where it is named, or a variant is and neither kind."""
        return self.wants(kind) or (self.wants(*VARIANTS) and not self.wants(*KINDS))

    def shuffled(self, items: Sequence[Item], name: str) -> list[Item]:
        """These in an order that the seed decides, another one for every name."""
        order = list(items)
        random.Random(f"{self.seed} {name}").shuffle(order)
        return order


def make_plan(
    *, seconds: float | None, rounds: int | None, processes: int, only: str | None, seed: int, quick: bool
) -> Plan:
    """A plan of what was asked for; what was not is as long as `quick` says. Raises StartupError."""
    wanted = read_only(only)
    return Plan(
        seconds=seconds or (1.0 if quick else 5.0),
        rounds=rounds or (1 if quick else 4),
        processes=processes,
        seed=seed,
        quick=quick,
        only=wanted,
    )


def read_only(names: str | None) -> tuple[str, ...]:
    """What `--only webhook,submit` asks for. Raises StartupError for a name that is none."""
    if names is None:
        return USUAL
    asked = [name.strip() for name in names.split(",") if name.strip()]
    if unknown := [name for name in asked if name not in MEASURES] or ([] if asked else ["(none)"]):
        raise StartupError(f"--only: unknown {', '.join(unknown)}; there are {', '.join(MEASURES)}")
    return tuple(name for name in MEASURES if name in asked)
