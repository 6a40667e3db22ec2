"""Work in a modest thread: its result and its errors are its caller's, and nobody else waits for it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading

import pytest

from app import modest

LEAVING: str = """
import asyncio, time
from app import modest

async def main():
    working = asyncio.create_task(modest.work(time.sleep, 300))
    await asyncio.sleep(0.2)
    working.cancel()

asyncio.run(main())
"""


async def test_a_result_and_an_error_come_back() -> None:
    assert await modest.work(len, "four") == 4
    with pytest.raises(ZeroDivisionError):
        await modest.work(lambda number: 1 / number, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux only")
async def test_the_thread_lets_others_go_first() -> None:
    nice = await modest.work(lambda _: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()), None)
    assert nice == modest.MODEST
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) < modest.MODEST


async def test_one_is_done_after_another_though_nobody_waits_for_the_first() -> None:
    begun, release, order = threading.Event(), threading.Event(), []

    def first(_: None) -> None:
        begun.set()
        release.wait(60)
        order.append("first")

    working = asyncio.create_task(modest.work(first, None))
    assert await asyncio.to_thread(begun.wait, 60)
    working.cancel()
    second = asyncio.create_task(modest.work(order.append, "second"))
    await asyncio.sleep(0.05)
    release.set()
    await second
    assert order == ["first", "second"]


def test_the_end_of_the_process_does_not_wait_for_it() -> None:
    ended = subprocess.run([sys.executable, "-c", LEAVING], timeout=30, check=True, capture_output=True)
    assert ended.stderr == b""
