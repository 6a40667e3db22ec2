"""Fixtures of what is passed through: the vendor's schemas, and an upstream that misbehaves as a test wants."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.simulator.server import RunningSimulator
from tests.harness import Service, running_service, settings_for
from tests.relay.upstreams import Fits, Upstream

DOCUMENT = Path(__file__).resolve().parents[3] / "shared" / "apiframe-openapi.json"


@pytest.fixture(scope="session")
def fits() -> Fits:
    """Insist that a value is what the vendor's document says of a schema: `fits(body, "Lora")`."""
    jsonschema_rs = pytest.importorskip("jsonschema_rs")
    if not DOCUMENT.exists():
        pytest.skip(f"the vendor's document is not here: {DOCUMENT}")
    document = json.loads(DOCUMENT.read_text())

    def check(value: Any, name: str) -> Any:
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        jsonschema_rs.validator_for(schema, validate_formats=True).validate(value)
        return value

    return check


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """An upstream of the test's own."""
    async with Upstream().running() as running:
        yield running


@pytest.fixture
async def quiet(serve: Callable[..., Any], simulator: RunningSimulator) -> Service:
    """A service in front of the simulator that sends nothing by itself."""
    started: Service = await serve(simulator, loops=False)
    return started


@pytest.fixture
async def facing(database_url: str, simulator: RunningSimulator) -> AsyncIterator[Callable[..., Any]]:
    """Start services in front of another upstream: `await facing(upstream.url)`."""
    async with AsyncExitStack() as stack:

        async def start(url: str, **settings: Any) -> Service:
            values = {"loops": False, "apiframe_base_url": url} | settings
            return await stack.enter_async_context(running_service(settings_for(database_url, simulator, **values)))

        yield start
