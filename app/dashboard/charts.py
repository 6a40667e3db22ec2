"""Charts as inline SVG. Pure. Positions across are shares of the width, so that letters stay as large on a phone.

Whatever a chart shows stands in a table beside it, too: a picture alone says nothing to whoever does not see it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from app.dashboard.words import number

HEIGHT: Final = 196
TOP: Final = 10
BASE: Final = 168
"""Where the plot begins and ends, in pixels from above; below it are the labels."""

MOST_STEPS: Final = 4
INSET: Final = 0.14
"""How much of its place a bar leaves free, on each side."""


@dataclass(frozen=True, slots=True)
class Series:
    """What a colour stands for: `series-1` to `series-6`, as the style sheet has them."""

    name: str
    style: str


@dataclass(frozen=True, slots=True)
class Bar:
    """What is stacked at one place; `mark` is a level to compare it with, `title` is told on hover. Few need a label."""

    label: str
    title: str
    values: Sequence[int]
    mark: int = 0


def list_ticks(most: float) -> list[int]:
    """Round numbers from 0 to above `most`, a few of them, whole and evenly apart."""
    step = 1
    while most > step * MOST_STEPS:
        lead = int(str(step)[0])
        step = step // lead * {1: 2, 2: 5, 5: 10}[lead]
    return [step * count for count in range(max(math.ceil(most / step), 1) + 1)]


def stacked_bars(bars: Sequence[Bar], series: Sequence[Series], mark: Series, *, label: str) -> Markup:
    """Bars of several series on each other, a mark across each, and an axis beside them."""
    ticks = list_ticks(max([0, *(max(sum(bar.values), bar.mark) for bar in bars)]))
    grid = Markup("").join(
        Markup('<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>').format(y=_height(tick, ticks[-1]))
        for tick in ticks
    )
    axis = Markup("").join(
        Markup('<text x="34" y="{}" text-anchor="end">{}</text>').format(_height(tick, ticks[-1]) + 4, number(tick))
        for tick in ticks
    )
    body = Markup("").join(_place(bars, index, series, mark, ticks[-1]) for index in range(len(bars)))
    return Markup(
        '<div class="plot"><svg class="chart axis" aria-hidden="true" height="{h}">{axis}</svg>'
        '<svg class="chart" role="img" aria-label="{label}" height="{h}">{grid}{body}</svg></div>'
    ).format(h=HEIGHT, axis=axis, label=label, grid=grid, body=body)


def _place(bars: Sequence[Bar], index: int, series: Sequence[Series], mark: Series, top: int) -> Markup:
    """One bar with its label, and an area over its whole height that tells what it is."""
    bar, width = bars[index], 100 / len(bars)
    x, wide = _share(index * width + width * INSET), _share(width * (1 - 2 * INSET))
    parts, below = [], 0
    for value, each in zip(bar.values, series, strict=True):
        if value > 0:
            y = _height(below + value, top)
            tall = round(_height(below, top) - y, 2)
            parts.append(
                Markup('<rect class="{}" x="{}" width="{}" y="{}" height="{}"/>').format(each.style, x, wide, y, tall)
            )
            below += value
    if bar.mark:
        y = _height(bar.mark, top) - 1.5
        parts.append(
            Markup('<rect class="{} mark" x="{}" width="{}" y="{}" height="3" rx="1.5"/>').format(
                mark.style, x, wide, y
            )
        )
    if bar.label:
        parts.append(
            Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(
                _share((index + 0.5) * width), HEIGHT - 8, bar.label
            )
        )
    parts.append(
        Markup('<rect class="hit" x="{}" width="{}" y="0" height="{}"><title>{}</title></rect>').format(
            _share(index * width), _share(width), BASE, bar.title
        )
    )
    return Markup("").join(parts)


def meter(value: float | None, most: float | None, style: str, further: float | None = None) -> Markup:
    """A small bar beside a figure, of which `most` fills the width; `further` goes on from it, paler."""
    if not value or not most:
        return Markup("")
    rects = Markup('<rect class="{}" width="{}" height="8" rx="2"/>').format(style, _share(100 * min(value / most, 1)))
    if further is not None:
        beyond = _share(100 * min(further / most, 1))
        rects = Markup('<rect class="{} pale" width="{}" height="8" rx="2"/>').format(style, beyond) + rects
    return Markup('<svg class="chart meter" aria-hidden="true" height="8">{}</svg>').format(rects)


def _height(value: float, top: float) -> float:
    return round(BASE - (BASE - TOP) * value / top, 2)


def _share(percent: float) -> str:
    return f"{percent:.3f}".rstrip("0").rstrip(".") + "%"
