"""Fixtures of the archive: every place where files may be kept, one after the other, a service that keeps them, a source."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.archive.stories import Archive, Simulate, archiving
from tests.objects import Place, S3Place, S3Server, folder_place, s3_place
from tests.sources import Source, sourcing


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server that this worker's tests share, each with a bucket of its own."""
    server = S3Server(tmp_path_factory.mktemp("s3"))
    yield server
    server.close()


@pytest.fixture
async def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[S3Place]:
    """A bucket, which this process finds by its environment."""
    async with s3_place(s3_server) as place:
        for name, value in place.environment.items():
            monkeypatch.setenv(name, value)
        yield place


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A place of either kind: the test is run with both."""
    kept: Place = folder_place(tmp_path) if request.param == "folder" else request.getfixturevalue("s3")
    return kept


@pytest.fixture
async def archive(database_url: str, simulate: Simulate, place: Place) -> AsyncIterator[Archive]:
    """A service that keeps files there."""
    async with archiving(database_url, simulate, place) as running:
        yield running


@pytest.fixture
async def source() -> AsyncIterator[Source]:
    """Where result files come from."""
    async with sourcing() as running:
        yield running
