"""Work that takes a processor's time, in a thread that lets everybody else have it first, and that no exit waits for."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

Argument = TypeVar("Argument")
Result = TypeVar("Result")

MODEST: Final = 15
"""How nice a thread is to the others, of at most 19."""

_one_at_a_time = threading.Lock()


async def work(do: Callable[[Argument], Result], argument: Argument) -> Result:
    """Do something in a thread of its own, one after another in this process.

    Whoever is cancelled leaves it to end by itself. A ThreadPoolExecutor would have the interpreter wait for it at its exit.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def settle(settled: Callable[[], None]) -> None:
        if not done.done():
            settled()

    def run() -> None:
        _be_modest()
        try:
            with _one_at_a_time:
                settled = partial(done.set_result, do(argument))
        except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to whoever waits
            settled = partial(done.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, settled)

    threading.Thread(target=run, name="modest", daemon=True).start()
    return await done


def _be_modest() -> None:
    """Let this thread take the processor only where nobody else wants it (Linux has this for each thread)."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), MODEST)
