"""A background loop: run once until there is nothing to do, then wait for a nudge or the interval."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from app.notify import Notifier, wait

log = structlog.get_logger()


async def keep_running(
    name: str,
    run_once: Callable[[], Awaitable[int]],
    *,
    every_seconds: float,
    notify: Notifier,
    topics: tuple[str, ...] = (),
) -> None:
    """Call `run_once` for ever. It says how much it did: more than nothing means again at once.

    A loop outlives its errors: a dependency that is away, and a bug as well, are logged and tried again after the interval.
    """
    with notify.listening(*topics) as nudged:
        while True:
            nudged.clear()
            try:
                if await run_once():
                    continue
            except Exception:
                log.exception("loop.failed", loop=name)
            await wait(nudged, every_seconds)
