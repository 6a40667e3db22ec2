"""Lanes: a target has its places and no more, is claimed ahead for while it answers quickly, and nobody is passed over."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict, deque
from collections.abc import Collection

import pytest

from app.lanes import AHEAD, PLACES, PLACES_PER_TARGET, QUICK_SECONDS, Lane

MOST = PLACES_PER_TARGET[False]


def lane_with(hanging: set[str] | None = None) -> Lane:
    return Lane(retrying=False, hanging=set() if hanging is None else hanging)


def claim(lane: Lane, short: Collection[str] = ("a",), **taken: int) -> None:
    lane.note_claim(lane.rooms(), taken, short, all_seen=True)


def test_room_grows_with_quick_answers_while_there_is_more_and_shrinks_with_a_slow_one() -> None:
    lane = lane_with()
    claim(lane, a=MOST)
    for _ in range(1000):
        lane.note_answer("a", seconds=QUICK_SECONDS / 2)
    assert lane.rooms() == {"a": (AHEAD - 1) * MOST}

    lane.note_answer("a", seconds=QUICK_SECONDS * 2)
    assert lane.rooms() == {"a": 0}

    lane.note_answer("a", seconds=0)
    claim(lane, short=[])  # it had room, and nothing was due
    lane.give_back("a")
    assert lane.rooms() == {"a": 1}


def test_a_target_that_hangs_has_one_place() -> None:
    hanging = {"a"}
    lane = lane_with(hanging)
    assert lane.rooms() == {"a": 1}
    claim(lane, a=1)
    assert lane.rooms() == {"a": 0}
    assert not lane.is_hungry("a")
    assert lane.give_back("a")


def test_more_is_claimed_for_a_target_that_was_full_when_others_were_claimed_for() -> None:
    lane = lane_with()
    claim(lane, a=MOST)
    claim(lane, short=[], b=1)

    assert lane.give_back("a")
    assert not lane.give_back("b")


@pytest.mark.parametrize("seed", range(5))
async def test_everyone_gets_a_place_in_turn_and_none_has_more_than_its_own(seed: int) -> None:
    lane, dice = lane_with(), random.Random(seed)
    waiting: defaultdict[str, deque[asyncio.Task[None]]] = defaultdict(deque)
    sending: Counter[str] = Counter()
    sent: list[str] = []

    async def send(target: str) -> None:
        await enter(target)
        sending[target] += 1
        assert sending[target] <= MOST
        assert sending.total() <= PLACES[False]
        try:
            for _ in range(dice.randrange(3)):
                await asyncio.sleep(0)
            sent.append(target)
        finally:
            sending[target] -= 1
            lane.leave(target)
            if waiting[target] and dice.random() < 0.1:  # one that has perhaps just been given the place
                waiting[target][0].cancel()

    async def enter(target: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        waiting[target].append(task)
        try:
            await lane.enter(target)
        finally:
            waiting[target].remove(task)

    tasks = [asyncio.create_task(send(f"{dice.randrange(60)}")) for _ in range(2000)]
    await asyncio.sleep(0)
    for task in dice.sample(tasks, 300):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    given_up = [task for task in tasks if task.cancelled()]
    assert len(given_up) > 300
    assert not any(task.exception() for task in tasks if not task.cancelled())
    assert len(sent) + len(given_up) == len(tasks)
    entering = [asyncio.create_task(lane.enter(f"{number}")) for number in range(PLACES[False])]
    await asyncio.sleep(0)
    assert all(task.done() for task in entering), "a place was not given back"
