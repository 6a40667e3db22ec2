"""Save what a job made: from the archive what is kept, the rest from where its result says. Nothing is overwritten.

The key goes to the Framehook alone, never to where a result or a redirection leads.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import unquote, urlsplit

import httpx
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from app.archive.urls import find_urls
from app.cli.reach import Service
from app.cli.terminal import progress_bar
from app.errors import StartupError
from app.listen import explain, open_client

LONGEST_NAME: Final = 100
MOST_OF_A_NAME: Final = 1000
"""So many files of one name are told apart by a number; a folder with more of them is somebody's mistake."""


async def download(service: Service, job: dict[str, Any], folder: Path, *, quiet: bool = False) -> list[Path]:
    """Save the files of a job's result, and return where; raises StartupError where one cannot be had or saved."""
    saved = []
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with progress_bar(*columns, quiet=quiet) as progress:
        for number, (address, source) in enumerate(places(job), start=1):
            async with _open(service, address) as response:
                name = name_of(source, response.headers.get("content-type", ""), f"{job['id']}-{number}")
                saved.append(await _save(response, folder, name, progress))
    return saved


def places(job: dict[str, Any]) -> list[tuple[str, str]]:
    """Where to get each file of a job, a path of the service or a URL, with the address that it has its name from."""
    kept = [(f"/v1/files/{file['id']}", file.get("source") or file["url"]) for file in job["files"]]
    sources = {source for _, source in kept}
    rest = [url for url in find_urls(job["result"]) if url not in sources and not any(path in url for path, _ in kept)]
    return kept + [(url, url) for url in rest]


def name_of(source: str, content_type: str, otherwise: str) -> str:
    """What a file is called: as in its address, with an ending by its type where it has none there."""
    name = re.sub(r"[^\w.-]+", "-", unquote(urlsplit(source).path.rpartition("/")[2])).lstrip(".-")
    stem, dot, ending = name.rpartition(".")
    if not dot:
        stem, ending = name, (mimetypes.guess_extension(content_type.partition(";")[0].strip()) or "").lstrip(".")
    stem = stem[:LONGEST_NAME] or otherwise
    return f"{stem}.{ending[:LONGEST_NAME]}" if ending else stem


def create_file(folder: Path, name: str) -> tuple[Path, BinaryIO]:
    """A new file of this name, or with a number in it where there is one; the folder is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    stem, dot, ending = name.rpartition(".")
    for number in range(1, MOST_OF_A_NAME):
        other = name if number == 1 else f"{stem}-{number}.{ending}" if dot else f"{name}-{number}"
        try:
            return folder / other, (folder / other).open("xb")
        except FileExistsError:
            continue
    raise StartupError(f"{folder} has too many files that are called {name}")


@asynccontextmanager
async def _open(service: Service, address: str) -> AsyncIterator[httpx.Response]:
    """An answer with a file as its body."""
    if address.startswith("/"):
        async with service.open("GET", address) as response:
            if response.is_success:
                yield response
                return
            address = response.headers.get("location", "")
    try:
        async with open_client(address) as http, http.stream("GET", address, follow_redirects=True) as response:
            if not response.is_success:
                raise StartupError(f"{address} answered {response.status_code}")
            yield response
    except httpx.RequestError as error:
        raise StartupError(f"{address}: {explain(error)}") from None


async def _save(response: httpx.Response, folder: Path, name: str, progress: Progress) -> Path:
    declared = response.headers.get("content-length", "")
    task = progress.add_task(name, total=int(declared) if declared.isdecimal() else None)
    try:
        path, file = create_file(folder, name)
        try:
            with file:
                async for part in response.aiter_bytes():
                    file.write(part)
                    progress.advance(task, len(part))
        except BaseException:
            path.unlink()  # half a file would pass for a whole one
            raise
    except OSError as error:
        raise StartupError(f"{folder / name} cannot be saved: {error.strerror}") from None
    return path
