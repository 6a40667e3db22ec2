"""Charts are well-formed, safe, and show what they were given."""

from __future__ import annotations

from html import escape
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dashboard.charts import BASE, TOP, Bar, Series, list_ticks, meter, stacked_bars

MARK = Series("submitted", "series-1")
SERIES = (Series("completed", "series-2"), Series("failed", "series-3"))

BARS = st.lists(
    st.builds(
        Bar,
        label=st.just("12:00"),
        title=st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF)),
        values=st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)),
        mark=st.integers(0, 10**9),
    ),
    min_size=1,
    max_size=31,
)


def parse(drawn: str) -> ElementTree.Element:
    """What was drawn, if it is well-formed."""
    return ElementTree.fromstring(drawn)  # noqa: S314 - it was drawn by us


@given(st.integers(0, 10**12))
def test_an_axis_has_few_round_numbers_that_reach_as_far_as_there_is_anything(most: int) -> None:
    ticks = list_ticks(most)
    assert 2 <= len(ticks) <= 5
    assert ticks[0] == 0
    assert ticks[-1] >= most
    assert ticks[-1] - ticks[1] < max(most, 1)
    assert str(ticks[1]).rstrip("0") in ("1", "2", "5")


@pytest.mark.parametrize(
    ("most", "ticks"), [(0, [0, 1]), (4, [0, 1, 2, 3, 4]), (13, [0, 5, 10, 15]), (100, [0, 50, 100])]
)
def test_an_axis_reads_well(most: int, ticks: list[int]) -> None:
    assert list_ticks(most) == ticks


@given(BARS)
def test_bars_are_as_tall_as_they_are_many_and_stay_within_the_plot(bars: list[Bar]) -> None:
    drawn = parse(stacked_bars(bars, SERIES, MARK, label="Jobs"))
    axis, plot = drawn
    assert axis.attrib["aria-hidden"] == "true"
    assert (plot.attrib["role"], plot.attrib["aria-label"]) == ("img", "Jobs")
    top = max([1, *(max(sum(bar.values), bar.mark) for bar in bars)])
    for style, values in (("series-2", [bar.values[0] for bar in bars]), ("series-3", [bar.values[1] for bar in bars])):
        rects = [rect for rect in plot if rect.get("class") == style]
        assert len(rects) == sum(1 for value in values if value)
        for rect, value in zip(rects, [value for value in values if value], strict=True):
            tall = float(rect.attrib["height"])
            assert tall <= (BASE - TOP) * value / top + 0.02
            assert TOP - 0.02 <= float(rect.attrib["y"]) <= BASE
    assert [rect.findtext("title") for rect in plot if rect.get("class") == "hit"] == [bar.title for bar in bars]


def test_nothing_that_others_wrote_becomes_markup() -> None:
    evil = '"><script>alert(1)</script>'
    drawn = stacked_bars([Bar(evil, evil, (1, 1), 1)], SERIES, MARK, label=evil)
    assert "<script" not in drawn
    assert escape(evil).replace("&quot;", "&#34;") in drawn.replace("&#x27;", "'")


def test_an_empty_chart_is_still_one() -> None:
    drawn = parse(stacked_bars([Bar("a", "a", (0, 0)), Bar("b", "b", (0, 0))], SERIES, MARK, label="x"))
    assert [text.text for text in drawn[0]] == ["0", "1"]


def test_a_meter_shows_shares_and_nothing_where_there_is_nothing() -> None:
    assert meter(None, 4, "series-1") == meter(1, None, "series-1") == ""
    rects = list(parse(meter(1, 4, "series-1", 2)))
    assert [(rect.attrib["class"], rect.attrib["width"]) for rect in rects] == [
        ("series-1 pale", "50%"),
        ("series-1", "25%"),
    ]
    assert parse(meter(9, 4, "series-1"))[0].attrib["width"] == "100%"
