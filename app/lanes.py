"""What a process has in hand of the deliveries of one lane: how many more may be claimed, and whose turn it is to be sent.

A target has a few places to be sent to at once. One that answers quickly may have more claimed ahead, which wait here for
a place; one that hangs has nothing but one place.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Mapping
from typing import Final

PLACES: Final = {False: 400, True: 100}
PLACES_PER_TARGET: Final = {False: 10, True: 4}
"""How many deliveries a process makes at once, in all and for one target; False is the lane of first attempts.

A target whose last attempt got no answer in time has one place until it answers: forty targets that begin to hang at once
fill a lane for one timeout, and from then on four hundred would have to.
"""

AHEAD: Final = 10
"""So many times as much may be claimed as there are places, in all and for a target that answers quickly."""

QUICK_SECONDS: Final = 1.0
"""From the claim to the answer, waiting for a place included: what is claimed ahead is sent long before its lease ends."""


class Lane:
    """The deliveries of one lane that this process has claimed and not recorded yet, by target.

    `hanging` are targets whose last attempt got no answer in time; both lanes share them.
    """

    def __init__(self, *, retrying: bool, hanging: set[str]) -> None:
        self._places = PLACES[retrying]
        self._places_per_target = PLACES_PER_TARGET[retrying]
        self._hanging = hanging
        self.in_hand: Counter[str] = Counter()
        self._count = 0
        self._sending: Counter[str] = Counter()
        self._sending_count = 0
        self._waiting: defaultdict[str, deque[asyncio.Future[None]]] = defaultdict(deque)
        self._next: dict[str, None] = {}  # targets that wait though they have a place of their own, in turn
        self._grown: dict[str, int] = {}  # room of targets that answer quickly
        self._short: set[str] = set()  # targets that had more due than the last claim could take

    def left(self) -> int:
        """How many more may be claimed in all."""
        return AHEAD * self._places - self._count

    def rooms(self) -> Mapping[str, int]:
        """How many more may be claimed for each target of which something is known; for others their places."""
        known = {*self.in_hand, *self._grown, *self._hanging}
        return {target: max(self._room(target) - self.in_hand[target], 0) for target in known}

    def take(self, target: str, count: int = 1) -> None:
        """Take in hand what was claimed for a target."""
        self.in_hand[target] += count
        self._count += count

    def note_claim(
        self, rooms: Mapping[str, int], taken: Mapping[str, int], short: Collection[str], *, all_seen: bool
    ) -> None:
        """Take in hand what was claimed, so many for each target, `rooms` being what there was room for.

        `short` are targets that may have more due than they were given. `all_seen`: so may no others that had room.
        """
        for target, count in taken.items():
            self.take(target, count)
        before = self._short
        self._short = {*short, *(target for target in before if not all_seen or rooms.get(target) == 0)}
        if not all_seen:
            self._short.update(taken)
        self._grown = {target: room for target, room in self._grown.items() if target in self._short}

    def is_hungry(self, target: str) -> bool:
        """Whether so little is in hand for a target that it is time to claim more."""
        if target not in self._short or self.left() <= 0:
            return False
        room = self._room(target)
        return self.in_hand[target] < (room + min(room, self._places_per_target)) // 2

    def has_hungry(self) -> bool:
        """Whether that is so for any target."""
        return any(self.is_hungry(target) for target in self._short)

    def give_back(self, target: str) -> bool:
        """What was in hand is recorded. Answers whether it is time to claim more."""
        was_full = self.left() <= 0
        self._count -= 1
        self.in_hand[target] -= 1
        if self.in_hand[target] <= 0:
            del self.in_hand[target]
        return was_full or self.is_hungry(target)

    def note_answer(self, target: str, *, seconds: float) -> None:
        """A target has answered so many seconds after its delivery was claimed."""
        if seconds > QUICK_SECONDS:
            self._grown.pop(target, None)
        elif target in self._short:
            self._grown[target] = min(self._room(target) + 1, AHEAD * self._places_per_target)

    def note_hanging(self, target: str) -> None:
        """A target has not answered in time."""
        self._grown.pop(target, None)

    async def enter(self, target: str) -> None:
        """Wait for a place to send to a target, in order of arrival; `leave` it afterwards."""
        if target not in self._waiting and self._is_free(target):
            self.enter_at_once(target)
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting[target].append(turn)
        if self._sending[target] < self._places_per_target:
            self._next[target] = None
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it was its turn already
                self.leave(target)
            raise

    def forget(self) -> None:
        """Have nothing in hand any more, as after a crash."""
        self.in_hand.clear()
        self._count = 0

    def enter_at_once(self, target: str) -> None:
        """Take a place, though there be none."""
        self._sending[target] += 1
        self._sending_count += 1

    def leave(self, target: str) -> None:
        """Give a place to whoever waits for it: every target in turn."""
        self._sending_count -= 1
        self._sending[target] -= 1
        if not self._sending[target]:
            del self._sending[target]
        if target in self._waiting and self._sending[target] < self._places_per_target:
            self._next[target] = None
        while self._next and self._sending_count < self._places:
            self._call_next()

    def _call_next(self) -> None:
        target = next(iter(self._next))
        del self._next[target]
        waiting = self._waiting[target]
        if not (turn := waiting.popleft()).cancelled():
            self.enter_at_once(target)
            turn.set_result(None)
        if not waiting:
            del self._waiting[target]
        elif self._sending[target] < self._places_per_target:
            self._next[target] = None

    def _is_free(self, target: str) -> bool:
        return self._sending_count < self._places and self._sending[target] < self._places_per_target

    def _room(self, target: str) -> int:
        return 1 if target in self._hanging else self._grown.get(target, self._places_per_target)
