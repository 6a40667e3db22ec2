"""What a measure found: figures by their names, what they were made of, and what was looked up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from app.bench.figures import Spread
from app.bench.verify import Checked

Say = Callable[[str], None]
"""Tells whoever waits how it goes."""


@dataclass(frozen=True, slots=True)
class Found:
    """The outcome of one measure."""

    figures: dict[str, Any]
    raw: dict[str, Any]
    checked: Checked = field(default_factory=Checked)
    spreads: dict[str, Spread] = field(default_factory=dict)
