"""What stands in for pgbench where there is none: the same statements by asyncpg, from this process.

Python takes a part of the machine that pgbench would not, so a limit that was measured so is lower, and the report says so.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import asyncpg

_NAME: Final = re.compile(r"(?<![:\w]):([a-z_]+)")


def read_script(path: Path) -> tuple[str, list[str]]:
    """A script of pgbench's as one statement for asyncpg, and the names of its parameters in their order."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith(("\\", "--"))]
    names: list[str] = []

    def numbered(found: re.Match[str]) -> str:
        names.append(found[1])
        return f"${len(names)}"

    return _NAME.sub(numbered, "\n".join(lines)), names


async def run(
    database_url: str, path: Path, seconds: float, clients: int, *, payloads: Sequence[str]
) -> tuple[int, list[float]]:
    """Run a script by so many clients at once; return the latency of each transaction, and how many there were."""
    statement, names = read_script(path)
    connections = [await asyncpg.connect(database_url) for _ in range(clients)]
    try:
        prepared = [await connection.prepare(statement) for connection in connections]
        deadline = time.monotonic() + seconds
        latencies: list[float] = []

        async def client(number: int) -> None:
            kinds = [each.name for each in prepared[number].get_parameters()]
            turn = 0
            while time.monotonic() < deadline:
                values = {"job": 1 + (turn * clients + number) * len(payloads), "payload": payloads}
                began = time.monotonic()
                await prepared[number].fetch(*_fitting(values, names, kinds))
                latencies.append(time.monotonic() - began)
                turn += 1

        await asyncio.gather(*map(client, range(clients)))
    finally:
        for connection in connections:
            await connection.close()
    return len(latencies), sorted(latencies)


def _fitting(values: Mapping[str, Any], names: Sequence[str], kinds: Sequence[str]) -> list[Any]:
    """Parameters as the types that PostgreSQL gave them want them."""
    found = []
    for name, kind in zip(names, kinds, strict=True):
        value = values[name]
        if name == "payload" and not kind.endswith("[]"):
            value = value[0]
        found.append(str(value) if kind == "text" else value)
    return found
