"""Places where archived files may be kept, alike for tests: a folder, and a bucket of a real S3 server over HTTP.

Whatever a place does for the test, it does behind the service's back: past obstore, and past its own refusals.
"""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Literal
from urllib.parse import quote
from uuid import uuid4

import aiohttp
import httpx
from aiohttp import web
from yarl import URL

How = Literal["unavailable", "cut"]
"""How storage refuses: by answering 503, or by cutting every connection."""

START_SECONDS = 120.0
PAGE_KEYS = 100
# moto runs until it is stopped or its standard input ends, so that it does not outlive whoever started it.
RUN_MOTO = """
import os, sys, threading
from moto.server import main
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
main(["-H", "127.0.0.1", "-p", "0"])
"""
# moto refuses anonymous readers, and takes any signature for a good one.
SIGNED = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=tests/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
}
# What belongs to one connection and not to what is sent over it (RFC 9110, section 7.6.1).
HOP_BY_HOP = frozenset({"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"})


class Place(ABC):
    """Where archived files are kept."""

    url: str
    """What FRAMEHOOK_ARCHIVE_URL gets."""

    environment: Mapping[str, str] = MappingProxyType({})
    """What a process must have in its environment to find the place."""

    @abstractmethod
    async def names(self) -> list[str]:
        """Every object that there is now, by its path below the prefix, sorted; in a folder half-written files too."""

    @abstractmethod
    async def unfinished(self) -> list[str]:
        """What was begun and neither finished nor given up: S3's multipart uploads, obstore's staging files in a folder."""

    @abstractmethod
    async def read(self, name: str) -> bytes:
        """An object's bytes. Raises FileNotFoundError."""

    @abstractmethod
    async def write(self, name: str, data: bytes) -> None:
        """Put an object there, over another if need be."""

    @abstractmethod
    async def remove(self, name: str) -> None:
        """Take an object away. Raises FileNotFoundError."""

    @abstractmethod
    def refusing(self) -> AbstractContextManager[None]:
        """Refuse to be written and read for so long; then all is there as it was before."""


class FolderPlace(Place):
    """A folder, which is not there before somebody makes it."""

    def __init__(self, root: Path) -> None:
        self.url = root.as_uri()
        self._root = root
        self._aside = root.with_name(f"{root.name}-aside")
        self._now = root

    async def names(self) -> list[str]:
        return sorted(str(path.relative_to(self._now)) for path in self._now.rglob("*") if path.is_file())

    async def unfinished(self) -> list[str]:
        return [name for name in await self.names() if re.search(r"#\d+$", name)]

    async def read(self, name: str) -> bytes:
        return (self._now / name).read_bytes()

    async def write(self, name: str, data: bytes) -> None:
        path = self._now / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    async def remove(self, name: str) -> None:
        (self._now / name).unlink()

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Have a file where the folder was; taking rights away would not stop root."""
        if self._root.exists():
            self._root.rename(self._aside)
        self._root.touch()
        self._now = self._aside
        try:
            yield
        finally:
            self._now = self._root
            self._root.unlink()
            if self._aside.exists():
                self._aside.rename(self._root)


class S3Place(Place):
    """A bucket and a prefix in it. The service goes through a proxy, which refuses when told and counts requests."""

    def __init__(self, server_url: str, bucket: str, prefix: str, proxy: Proxy, http: httpx.AsyncClient) -> None:
        self.url = f"s3://{bucket}/{prefix}"
        self.proxy = proxy
        self.environment = {
            "AWS_ENDPOINT_URL": proxy.url,
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "tests",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
            "NO_PROXY": "127.0.0.1",
        }
        self._bucket_url = f"{server_url}/{bucket}"
        self._prefix = f"{prefix}/"
        self._http = http

    async def names(self) -> list[str]:
        names: list[str] = []
        where = f"list-type=2&max-keys={PAGE_KEYS}"
        while True:
            page = await self._list(where)
            names += self._names_in(page)
            more = re.search(r"<NextContinuationToken>(.+?)</NextContinuationToken>", page)
            if more is None:
                return sorted(names)
            where = f"list-type=2&max-keys={PAGE_KEYS}&continuation-token={quote(html.unescape(more[1]))}"

    async def unfinished(self) -> list[str]:
        page = await self._list("uploads")
        assert "<IsTruncated>true" not in page
        return sorted(self._names_in(page))

    async def read(self, name: str) -> bytes:
        return (await self._ask("GET", name)).content

    async def write(self, name: str, data: bytes) -> None:
        await self._ask("PUT", name, data)

    async def remove(self, name: str) -> None:
        await self._ask("HEAD", name)  # because S3 finds nothing wrong with removing what is not there
        await self._ask("DELETE", name)

    def refusing(self, how: How = "unavailable") -> AbstractContextManager[None]:
        """Refuse by an answer of 503, or by cutting connections, those that are open first."""
        return self.proxy.refusing(how)

    async def _ask(self, method: str, name: str, data: bytes | None = None) -> httpx.Response:
        answer = await self._http.request(method, f"{self._bucket_url}/{quote(self._prefix + name)}", content=data)
        if answer.status_code == 404:
            raise FileNotFoundError(name)
        return answer.raise_for_status()

    async def _list(self, what: str) -> str:
        answer = await self._http.get(f"{self._bucket_url}?{what}&prefix={quote(self._prefix)}")
        return answer.raise_for_status().text

    def _names_in(self, page: str) -> list[str]:
        return [html.unescape(key).removeprefix(self._prefix) for key in re.findall(r"<Key>(.*?)</Key>", page)]


def folder_place(tmp_path: Path) -> FolderPlace:
    """A folder of the test's own."""
    return FolderPlace(tmp_path / "archive")


@asynccontextmanager
async def s3_place(server: S3Server) -> AsyncIterator[S3Place]:
    """A bucket of the test's own, behind a proxy in this event loop, for so long. The end empties the whole server."""
    bucket = f"bucket-{uuid4().hex[:16]}"
    client = httpx.AsyncClient(headers=SIGNED, trust_env=False, timeout=60)
    async with client as http, proxying(server.url) as proxy:
        (await http.put(f"{server.url}/{bucket}")).raise_for_status()
        yield S3Place(server.url, bucket, "some/prefix", proxy, http)
        (await http.post(f"{server.url}/moto-api/reset")).raise_for_status()


class S3Server:
    """moto's S3, in a process of its own on a port of its own choice."""

    def __init__(self, folder: Path) -> None:
        """Start it, and return when it answers, in well under a second. Its log goes to `folder`."""
        self._log = folder / "moto.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", RUN_MOTO],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                # Larger objects are spooled to files, so that a session of large ones does not fill the memory.
                env={**os.environ, "MOTO_S3_DEFAULT_KEY_BUFFER_SIZE": "1000000"},
            )
        try:
            self.url = self._wait_for_url()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.terminate()
        self._process.wait(60)

    def _wait_for_url(self) -> str:
        end = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < end:
            # It says so when its port is bound and listening, so a request from then on waits for it.
            if said := re.search(r"Running on (http://127\.0\.0\.1:\d+)", self._log.read_text()):
                httpx.get(f"{said[1]}/moto-api/data.json", trust_env=False, timeout=START_SECONDS).raise_for_status()
                return said[1]
            time.sleep(0.01)
        raise AssertionError(f"moto did not start: {self._log.read_text()[-2000:]}")


class Proxy:
    """Passes requests on to a server as they are, unless it is told to refuse them, and counts them."""

    def __init__(self, target: str, client: aiohttp.ClientSession) -> None:
        self.url = ""
        self.counts: Counter[str] = Counter()  # by method, refused ones too
        self.refused_count = 0
        self._target = target
        self._client = client
        self._how: How | None = None
        self._open: list[web.Request] = []

    @contextmanager
    def refusing(self, how: How) -> Iterator[None]:
        """Refuse everything for so long."""
        self._how = how
        if how == "cut":
            for request in self._open:
                _cut(request)
        try:
            yield
        finally:
            self._how = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Pass a request on, or refuse it."""
        self.counts[request.method] += 1
        if self._how is not None:
            self.refused_count += 1
        if self._how == "unavailable":
            return web.Response(status=503, text="<Error><Code>ServiceUnavailable</Code></Error>")
        if self._how == "cut":
            _cut(request)
            return web.Response()
        self._open.append(request)
        try:
            return await self._pass(request)
        except (aiohttp.ClientError, ConnectionError):
            # When one side is lost the other must not take what it has for the whole.
            _cut(request)
            return web.Response()
        finally:
            self._open = [kept for kept in self._open if kept is not request]

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        url = URL(self._target + request.raw_path, encoded=True)
        data = request.content.iter_any() if request.can_read_body else None
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP]
        async with self._client.request(
            request.method, url, headers=headers, data=data, allow_redirects=False
        ) as answered:
            passed_on = web.StreamResponse(status=answered.status, reason=answered.reason)
            for name, value in answered.headers.items():
                if name.lower() not in HOP_BY_HOP:
                    passed_on.headers.add(name, value)
            await passed_on.prepare(request)
            async for piece in answered.content.iter_any():
                await passed_on.write(piece)
            await passed_on.write_eof()
            return passed_on


@asynccontextmanager
async def proxying(target: str) -> AsyncIterator[Proxy]:
    """A proxy on a free port of 127.0.0.1, for so long."""
    # A connection that is kept may be closed by the server just when it is used again.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    unasked = ["Accept", "Accept-Encoding", "Content-Type", "User-Agent"]
    client = aiohttp.ClientSession(connector=connector, auto_decompress=False, skip_auto_headers=unasked)
    async with client:
        proxy = Proxy(target, client)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", proxy.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        proxy.url = f"http://{host}:{port}"
        try:
            yield proxy
        finally:
            await runner.cleanup()


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
