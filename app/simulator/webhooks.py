"""The vendor's webhooks: worded, signed, sent, and where the plan says so lost, doubled, delayed or reordered.

A job's webhooks go out in turn, each after the last one's final attempt; a late one is overtaken by those behind it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ssl
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import count
from typing import Any, Literal

import httpx
import msgspec

from app.simulator.books import Books, Send
from app.simulator.config import SimulatorConfig
from app.simulator.faults import strikes
from app.simulator.job import Job, stamp

Signing = Literal["valid", "wrong", "none"]
# So many are under way at once. Each has a client of its own: httpx searches its whole pool for every request, so that
# one client with many connections is slow.
_AT_ONCE = 64
_FINAL = ("completed", "failed")
_TELLS = {"progress": "PROCESSING", "completed": "COMPLETED", "failed": "FAILED"}


@dataclass(frozen=True, slots=True)
class Letter:
    """One webhook, ready to be sent."""

    job: Job
    event: str
    url: str
    body: bytes
    headers: dict[str, str]
    retries: int = 0
    copies: int = 1


def body_of(job: Job, event: str) -> dict[str, Any]:
    """Word an event of a job, fields in the vendor's order. The event decides the status it tells, not the job."""
    body: dict[str, Any] = {"event": event, "jobId": job.id, "status": _TELLS[event]}
    if event == "failed":
        return {**body, "error": job.error, "model": job.model}
    if event == "progress":
        return {**body, "progress": job.progress, "model": job.model}
    return {
        **body,
        "progress": 100,
        "result": job.result,
        "model": job.model,
        "creditCost": job.credit_cost,
        "completedAt": stamp(job.completed_at) if job.completed_at else None,
    }


def signature(api_key: str, body: bytes, config: SimulatorConfig) -> str:
    """Sign a body as for the key that a job was submitted with."""
    digest = hashlib.sha256(api_key.encode())
    secret = digest.digest() if config.signature_secret == "digest" else digest.hexdigest().encode()
    signed = hmac.new(secret, body, hashlib.sha256).hexdigest()
    return f"sha256={signed}" if config.signature_prefix else signed


def headers_of(api_key: str, event: str, body: bytes, config: SimulatorConfig, signing: Signing) -> dict[str, str]:
    """Write a webhook's headers; `wrong` signs with another key."""
    headers = {"Content-Type": "application/json", "X-Webhook-Event": event}
    if signing != "none":
        key = api_key if signing == "valid" else f"not {api_key}"
        headers["X-Webhook-Signature"] = signature(key, body, config)
    return headers


@cache
def _trust() -> ssl.SSLContext:
    """Read the trusted certificates once for all clients: it takes longer than to send a webhook."""
    return ssl.create_default_context()


class Sender:
    """Sends webhooks and writes each into the books."""

    def __init__(self, books: Books) -> None:
        self.books = books
        self._closed = False
        self._clients: list[httpx.AsyncClient] = []
        self._free: asyncio.LifoQueue[httpx.AsyncClient] = asyncio.LifoQueue()
        self._numbers: defaultdict[str, count[int]] = defaultdict(count)
        self._last: dict[str, asyncio.Task[None]] = {}
        self._withheld: defaultdict[str, list[Letter]] = defaultdict(list)
        self._tasks: set[asyncio.Task[None]] = set()

    def announce(self, job: Job, event: str, config: SimulatorConfig) -> None:
        """Send the job's news, if its submission asked for it and no fault is against it."""
        if job.webhook_url is None or event not in job.webhook_events or self._closed:
            return
        number = next(self._numbers[job.id])

        def struck(fault: str) -> bool:
            hit = fault in job.faults or strikes(config.faults, config.seed, fault, job.serial, number)
            if hit:
                self.books.faults[fault] += 1
            return hit

        if struck("no_webhooks") or struck("drop"):
            self._lose(job, event)
        elif event not in _FINAL and "reorder" in job.faults:
            self._withheld[job.id].append(self._write(job, event, config, struck))
        else:
            letter = self._write(job, event, config, struck)
            self._post(letter, config, late=struck("late"))
        if event in _FINAL:
            for letter in reversed(self._withheld.pop(job.id, [])):
                self._post(letter, config, late=False)

    async def settled(self, job: Job) -> None:
        """Wait until the job's webhooks so far have been sent, late ones left out."""
        while last := self._last.get(job.id):
            await asyncio.wait([last])

    async def send(self, letter: Letter, config: SimulatorConfig, attempt: int = 1) -> Send:
        """Send a webhook once and write it down."""
        client = await self._borrow()
        began, sent_at = time.perf_counter(), stamp(datetime.now(UTC))
        status, error = None, None
        try:
            # httpx times the parts of a call; the whole of it is what the receiver may take.
            async with asyncio.timeout(config.webhook_timeout_seconds):
                answer = await client.post(letter.url, content=letter.body, headers=letter.headers)
            status = answer.status_code
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, AttributeError) as problem:
            # The last is how anyio, on uvloop, tells of a connection that was reset as soon as it was made.
            error = f"{type(problem).__name__}: {problem}"
        finally:
            self._free.put_nowait(client)
        send = Send(
            job_id=letter.job.id,
            event=letter.event,
            url=letter.url,
            headers=letter.headers,
            body=letter.body.decode("utf-8", "replace"),
            attempt=attempt,
            sent_at=sent_at,
            seconds=round(time.perf_counter() - began, 4),
            answer_status=status,
            error=error,
        )
        self.books.keep(send)
        return send

    async def close(self) -> None:
        """Cancel what has not been sent and close the connections."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        clients, self._clients = self._clients, []
        for client in clients:
            await client.aclose()

    def _lose(self, job: Job, event: str) -> None:
        self.books.counts["webhooks_dropped"] += 1
        if event in _FINAL:
            job.webhook_status = "failed"

    def _write(self, job: Job, event: str, config: SimulatorConfig, struck: Callable[[str], bool]) -> Letter:
        body = msgspec.json.encode(body_of(job, event))
        signing: Signing = "none" if struck("unsigned") else "wrong" if struck("wrong_signature") else "valid"
        return Letter(
            job=job,
            event=event,
            url=job.webhook_url or "",
            body=body,
            headers=headers_of(job.api_key, event, body, config, signing),
            retries=0 if struck("no_retries") else config.webhook_retries,
            copies=2 if struck("double") else 1,
        )

    def _post(self, letter: Letter, config: SimulatorConfig, *, late: bool) -> None:
        if late:
            self._start(self._after(config.faults.late_seconds, letter, config))
            return
        task = self._start(self._in_turn(self._last.get(letter.job.id), letter, config))
        self._last[letter.job.id] = task
        task.add_done_callback(lambda done: self._last.get(letter.job.id) is done and self._last.pop(letter.job.id))

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _after(self, seconds: float, letter: Letter, config: SimulatorConfig) -> None:
        await asyncio.sleep(seconds)
        await self._in_turn(None, letter, config)

    async def _in_turn(self, earlier: asyncio.Task[None] | None, letter: Letter, config: SimulatorConfig) -> None:
        if earlier is not None:
            await asyncio.wait([earlier])
        arrived = await asyncio.gather(*(self._persist(letter, config) for _ in range(letter.copies)))
        if letter.event in _FINAL:
            letter.job.webhook_status = "delivered" if any(arrived) else "failed"

    async def _persist(self, letter: Letter, config: SimulatorConfig) -> bool:
        """Try until it is acknowledged or the retries are used up; tell which."""
        for attempt in range(1, letter.retries + 2):
            if (await self.send(letter, config, attempt)).acknowledged:
                return True
            if attempt <= letter.retries:
                await asyncio.sleep(config.webhook_backoff_seconds * 2 ** (attempt - 1))
        return False

    async def _borrow(self) -> httpx.AsyncClient:
        """Take the client that was last free, so that its connection is still warm, or make one, or wait for one."""
        if not self._free.empty() or len(self._clients) == _AT_ONCE:
            return await self._free.get()
        client = httpx.AsyncClient(trust_env=False, verify=_trust(), timeout=None)  # noqa: S113 - timed as a whole
        self._clients.append(client)
        return client
