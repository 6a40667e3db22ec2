"""What a soak says of its rounds."""

from __future__ import annotations

import pytest

from app.bench.soak import Round, compare, thirds


def made(seconds: float = 0.01, memory: float = 100.0, jobs: tuple[int, int] = (1000, 10), others: int = 500) -> Round:
    """A round; `jobs` are the table's bytes and rows."""
    return Round([seconds / 2, seconds], memory, 1.0, 5, {"jobs": jobs, "teams": (others, 1)})


@pytest.mark.parametrize(
    ("count", "earlier", "later"),
    [(1, [0], [0]), (2, [0], [1]), (3, [1], [2]), (5, [3], [4]), (30, range(10, 20), range(20, 30))],
)
def test_the_last_third_is_compared_with_the_one_before(count: int, earlier: list[int], later: list[int]) -> None:
    rounds = [made() for _ in range(count)]
    then, now = thirds(rounds)
    assert [id(each) for each in then] == [id(rounds[place]) for place in earlier]
    assert [id(each) for each in now] == [id(rounds[place]) for place in later]


def test_growth_is_told_of_each_thing_apart() -> None:
    flat = compare([made(), made(), made(jobs=(2000, 20))])
    assert set(flat.values()) == {1.0}
    assert compare([made(memory=1), made(), made(memory=150)]) == flat | {"soak_memory_growth": 1.5}
    assert compare([made(), made(), made(seconds=0.02)]) == flat | {"soak_p50_growth": 2.0, "soak_p99_growth": 2.0}
    assert compare([made(), made(), made(jobs=(2400, 20))]) == flat | {"soak_row_growth": 1.2}
    assert compare([made(), made(), made(others=1000)]) == flat | {"soak_other_tables_growth": 2.0}
