"""Which events a subscription is told. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any
from uuid import UUID

import msgspec


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What an event must be. None stands for anything; `team_id` None for the events of all teams, but not of test keys."""

    types: Sequence[str]
    team_id: UUID | None
    operation: str | None = None
    model: str | None = None
    metadata: Mapping[str, Any] | None = None


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a filter looks at."""

    type: str
    team_id: UUID
    operation: str | None = None
    model: str | None = None
    metadata: Mapping[str, Any] | None = None
    test: bool = False


def matches(wanted: Wanted, facts: Facts) -> bool:
    """Whether all that is wanted is there. Metadata must hold every wanted key with an equal value of the same type."""
    if wanted.team_id not in (None, facts.team_id) or (wanted.team_id is None and facts.test):
        return False
    if not any(fnmatchcase(facts.type, pattern) for pattern in wanted.types):
        return False
    if wanted.operation not in (None, facts.operation) or wanted.model not in (None, facts.model):
        return False
    found = facts.metadata or {}
    return all(name in found and _same(value, found[name]) for name, value in (wanted.metadata or {}).items())


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON has it, where true is not 1."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)
