"""A background loop: run once until there is nothing to do, then wait for a nudge or the interval."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from app.db import is_outage
from app.notify import Notifier, wait

log = structlog.get_logger()

RETRY_SECONDS: Final = 5.0


async def keep_running(
    name: str,
    run_once: Callable[[], Awaitable[int]],
    *,
    every_seconds: float,
    notify: Notifier,
    topics: tuple[str, ...] = (),
    rest_seconds: float = 0,
    note_turn: Callable[[float, Exception | None], object] = lambda _seconds, _error: None,
) -> None:
    """Call `run_once` for ever. It says how much it did: more than nothing means again at once.

    Where `rest_seconds` is given, nudges after it did nothing are heeded only then: what came together is done together.

    A loop outlives its errors: a dependency that is away, and a bug as well, are logged and tried again before long.
    `note_turn` is told of each call how many seconds it took, and what it raised.
    """
    with notify.listening(*topics) as nudged:
        while True:
            nudged.clear()
            pause_seconds, began = every_seconds, time.perf_counter()
            try:
                more = await run_once()
                note_turn(time.perf_counter() - began, None)
                if more:
                    continue
            except Exception as error:  # noqa: BLE001 - a loop that dies silently loses more than any error it could meet
                pause_seconds = min(every_seconds, RETRY_SECONDS)
                note_turn(time.perf_counter() - began, error)
                _tell(name, error)
            await asyncio.sleep(rest_seconds)
            await wait(nudged, pause_seconds)


def _tell(name: str, error: Exception) -> None:
    """One line for a database that is away; the whole story for anything else, which nobody expected."""
    if is_outage(error):
        log.warning("loop.failed", loop=name, error=str(error)[:200] or type(error).__name__)
    else:
        log.error("loop.failed", loop=name, exc_info=error)
