"""A process of ours that is asked by lines and answers by lines of JSON, and that ends when nobody asks any more."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec

from app.errors import StartupError
from app.serving import surroundings

ANSWER_SECONDS: Final = 120.0
LONGEST_ANSWER: Final = 2**30


class Conversation:
    """The way to such a process."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self.pid = child.pid
        self._child = child

    async def hear(self, kind: Any = Any) -> Any:
        """Its next line, read as this type. Raises StartupError where it has ended."""
        assert self._child.stdout is not None
        async with asyncio.timeout(ANSWER_SECONDS):
            line = await self._child.stdout.readline()
        if not line:
            raise StartupError("a part of the benchmark ended before its time; its error is above")
        return msgspec.json.decode(line, type=kind)

    async def ask(self, line: str, kind: Any = Any) -> Any:
        """Say a line, and read the answer."""
        assert self._child.stdin is not None
        self._child.stdin.write(line.encode() + b"\n")
        await self._child.stdin.drain()
        return await self.hear(kind)

    async def end(self, kind: Any = Any) -> Any:
        """Say no more, and read its last words."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        return await self.hear(kind)


@asynccontextmanager
async def conversation(module: str, *arguments: str) -> AsyncIterator[Conversation]:
    """Start a module as a process, and stop it at the end."""
    command: Sequence[str] = (sys.executable, "-m", module, *arguments)
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, env=surroundings({}), limit=LONGEST_ANSWER
    )
    try:
        yield Conversation(child)
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()
