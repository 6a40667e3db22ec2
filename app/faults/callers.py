"""The callers: each submits one generation after the other, and repeats it with its Idempotency-Key until a 202.

What they were told is the first of the three books: only a 202 that was read counts as acknowledged.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import httpx

from app.faults.plan import Submission

CALLERS: Final = 24
ANSWER_SECONDS: Final = 15.0
PATIENCE_SECONDS: Final = 120.0
"""Callers give up when none of them was acknowledged for so long."""

MODEL: Final = "flux-1.1-pro-ultra"
_AGAIN_SECONDS: Final = 0.1
_LONGEST_WAIT_SECONDS: Final = 1.0


class Callers:
    """Everybody who submits, at the services of these addresses, each team with its key."""

    def __init__(
        self,
        wanted: Sequence[Submission],
        urls: Sequence[str],
        keys: Mapping[str, str],
        on_acknowledged: Callable[[], None],
    ) -> None:
        self.acknowledged: dict[str, str] = {}  # prompt to job id
        self.repeats = 0
        self.unexpected: Counter[int] = Counter()
        self._waiting = deque(wanted)
        self._urls = urls
        self._keys = keys
        self._on_acknowledged = on_acknowledged
        self._heard_at = time.monotonic()
        self._tls = ssl.create_default_context()  # made once: httpx would read all certificates for every client anew

    @property
    def gave_up(self) -> bool:
        """Whether nothing was acknowledged for too long."""
        return time.monotonic() - self._heard_at > PATIENCE_SECONDS

    async def run(self) -> None:
        """Submit everything; return when all is acknowledged, or given up."""
        self._heard_at = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(min(CALLERS, len(self._waiting))):
                group.create_task(self._call(number))

    async def _call(self, number: int) -> None:
        place = number
        async with httpx.AsyncClient(trust_env=False, verify=self._tls, timeout=ANSWER_SECONDS) as client:
            while self._waiting and not self.gave_up:
                submission = self._waiting.popleft()
                while not self.gave_up:
                    wait = await self._submit(client, self._urls[place % len(self._urls)], submission)
                    if wait is None:
                        break
                    # The next try goes to the next service, as behind a load balancer that noticed.
                    place += 1
                    self.repeats += 1
                    await asyncio.sleep(wait)

    async def _submit(self, client: httpx.AsyncClient, url: str, submission: Submission) -> float | None:
        """Submit once; how many seconds to wait before the next try, None where there need be none."""
        headers = {"X-API-Key": self._keys[submission.team], "Idempotency-Key": submission.key}
        if submission.respond_async:
            headers["Prefer"] = "respond-async"
        try:
            body = {"model": MODEL, "prompt": submission.prompt}
            answer = await client.post(f"{url}/v2/images/generate", json=body, headers=headers)
        except httpx.TransportError:
            return _AGAIN_SECONDS
        if answer.status_code == httpx.codes.ACCEPTED:
            self.acknowledged[submission.prompt] = answer.json()["jobId"]
            self._heard_at = time.monotonic()
            self._on_acknowledged()
            return None
        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
            self.unexpected[answer.status_code] += 1
        return min(float(answer.headers.get("Retry-After", _AGAIN_SECONDS)), _LONGEST_WAIT_SECONDS)
