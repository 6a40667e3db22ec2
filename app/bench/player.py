"""Have requests played by the load generator, and read what came of them."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from app.bench.load import UNSENT, Notes, Orders, Summary
from app.errors import StartupError
from app.serving import surroundings

PATIENCE_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class Played:
    """What came of requests, in their order. Times are of the monotonic clock; a status is 0 where no answer came."""

    summary: Summary
    began: float
    seconds: float  # how long requests were sent
    sent: Sequence[float]
    took: Sequence[float]
    statuses: Sequence[int]

    @property
    def acknowledged(self) -> list[int]:
        """The places of the requests that were answered 2xx."""
        return [place for place, status in enumerate(self.statuses) if 200 <= status < 300]

    @property
    def refused(self) -> int:
        """How many requests were sent and had no such answer."""
        return sum(1 for status in self.statuses if status != UNSENT and not 200 <= status < 300)

    @property
    def in_time(self) -> list[int]:
        """The places of those that were acknowledged while requests were still sent: these make the rate."""
        end = self.began + self.seconds
        return [place for place in self.acknowledged if self.sent[place] + self.took[place] <= end]

    @property
    def rate(self) -> float:
        """Acknowledged requests a second."""
        return len(self.in_time) / self.seconds

    @property
    def latencies(self) -> list[float]:
        """Seconds to the acknowledgement, in rising order, of all that were acknowledged."""
        return sorted(self.took[place] for place in self.acknowledged)


async def play(
    port: int, requests: Sequence[bytes], *, connections: int, seconds: float, rate: float | None = None
) -> Played:
    """Play requests against a port of this machine in a process of their own. Raises StartupError where that failed."""
    with tempfile.TemporaryDirectory(prefix="framehook-bench-load-") as folder:
        written, notes = Path(folder) / "requests", Path(folder) / "notes"
        written.write_bytes(msgspec.msgpack.encode(list(requests)))
        orders = Orders(
            port=port,
            connections=connections,
            seconds=seconds,
            rate=rate,
            requests=str(written),
            notes=str(notes),
        )
        said = await finish([sys.executable, "-m", "app.bench.load"], msgspec.json.encode(orders))
        summary = msgspec.json.decode(said, type=Summary)
        noted = msgspec.msgpack.decode(notes.read_bytes(), type=Notes)
    sent, took, statuses = array("d", noted.sent), array("d", noted.seconds), array("h", noted.statuses)
    lasted = min(seconds, max(sent) - noted.began) if summary.ran_out and len(sent) else seconds
    return Played(summary, noted.began, max(lasted, 1e-9), sent, took, statuses)


async def finish(command: Sequence[str], said: bytes = b"", environment: dict[str, str] | None = None) -> bytes:
    """Run a command to its end and return what it wrote; it is killed where its caller goes away. Raises StartupError."""
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, stderr=pipe, env=surroundings({}) if environment is None else environment
    )
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            output, errors = await child.communicate(said)
    except BaseException:
        if child.returncode is None:
            child.kill()
            await child.wait()
        raise
    if child.returncode:
        last = " | ".join(errors.decode(errors="replace").strip().splitlines()[-4:])
        raise StartupError(f"{' '.join(command[:3])} failed with exit code {child.returncode}: {last}")
    return output
