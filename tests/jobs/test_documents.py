"""When the upstream's document is read, kept and believed: by all processes, soon, and never in the way of a job."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final

import pytest
import structlog

from app.clock import SettableClock
from app.jobs import documents
from app.simulator.bodies import variants
from app.simulator.config import SimulatorConfig
from app.simulator.document import openapi
from app.simulator.server import RunningSimulator
from tests.contract.upstream import RecordingUpstream, recording_upstream
from tests.harness import FLUX, FrozenClock, Service, books, eventually, refused
from tests.jobs.nudges import hears

Serve = Callable[..., Any]
Simulate = Callable[..., RunningSimulator]
LATER: Final = {"Prefer": "respond-async"}
NEW: Final = {"model": "dream-9", "prompt": "x"}
WRONG: Final = {"model": "midjourney", "prompt": "x", "size": "big"}


def document(*models: str) -> bytes:
    """A document that knows these models only."""
    prompt = {"type": "string", "minLength": 1}
    described = [
        {
            "type": "object",
            "properties": {"model": {"enum": [model]}, "prompt": prompt},
            "required": ["model", "prompt"],
            "additionalProperties": False,
        }
        for model in models
    ]
    body = {"content": {"application/json": {"schema": {"oneOf": described}}}}
    return json.dumps({"openapi": "3.1.0", "paths": {"/v2/images/generate": {"post": {"requestBody": body}}}}).encode()


@asynccontextmanager
async def before(serve: Serve, raw: bytes, **settings: Any) -> AsyncIterator[tuple[Service, RecordingUpstream]]:
    """A service that does nothing by itself, before an upstream with this document."""
    async with recording_upstream(raw) as upstream:
        service = await serve(upstream, loops=False, **settings)
        service.ctx.clock = SettableClock()
        yield service, upstream


def advance(service: Service, seconds: float) -> None:
    """Let so much time pass for a service."""
    assert isinstance(service.ctx.clock, SettableClock)
    service.ctx.clock.advance(seconds)


async def details(service: Service, body: dict[str, Any]) -> dict[str, list[str]]:
    told: dict[str, list[str]] = refused(await service.caller.submit(body, **LATER), 400)["details"]
    return told


async def test_a_service_reads_the_document_and_the_models_when_it_starts(
    service: Service, simulator: RunningSimulator
) -> None:
    async def kept() -> Any:
        return await service.rows("SELECT document, document_digest, models, account FROM catalogs")

    (row,) = await eventually(kept, lambda rows: rows and all(rows[0]))

    assert row.account == service.ctx.account
    assert set(row.document["paths"]) >= {"/v2/images/generate", "/v2/music/suno/action"}
    assert len(row.models["models"]) > 50
    assert await details(service, WRONG) == {"size": ["Unrecognized field"]}
    assert (await books(simulator))["counters"]["submissions"] == 0


async def test_what_is_young_is_not_asked_for_again_and_what_is_a_day_old_is(serve: Serve) -> None:
    async with before(serve, document("midjourney")) as (service, upstream):
        await documents.refresh_once(service.ctx)
        await documents.refresh_once(service.ctx)
        assert upstream.documents == 1

        advance(service, 23 * 3600)
        await documents.refresh_once(service.ctx)
        assert upstream.documents == 1

        advance(service, 2 * 3600)
        await documents.refresh_once(service.ctx)
        assert upstream.documents == 2


async def test_another_process_hears_of_a_new_document_by_a_nudge_or_within_a_minute(serve: Serve) -> None:
    async with before(serve, document("midjourney")) as (one, upstream):
        other = await serve(upstream, loops=False)
        other.ctx.clock = clock = FrozenClock()
        await hears(other, one)
        await documents.refresh_once(one.ctx)
        assert await details(other, WRONG) == {"size": ["Unrecognized field"]}

        upstream.document = document("dream-9", "midjourney-9")
        advance(one, 25 * 3600)
        await documents.refresh_once(one.ctx)
        await hears(other, one)

        async def models() -> str:
            return (await details(other, {"model": "flux", "prompt": "x"}))["model"][0]

        assert await models() == "Unknown model; there are dream-9, midjourney-9"

        async with other.ctx.db.transaction() as tx:  # somebody's word that nobody nudged about
            await tx.exec_driver_sql("UPDATE catalogs SET document = document #- '{paths}', document_digest = 'x'")
        assert "dream-9" in await models()
        clock.advance(61)
        await other.caller.accepted({"model": "flux", "prompt": "x"}, **LATER)


async def test_a_model_that_the_document_lacks_has_an_old_one_read_again_once(serve: Serve) -> None:
    async with before(serve, document("midjourney")) as (service, upstream):
        await documents.refresh_once(service.ctx)
        upstream.document = document("midjourney", "dream-9")

        assert await details(service, NEW) == {"model": ["Unknown model; there is midjourney"]}
        assert upstream.documents == 1

        advance(service, 301)
        answers = await asyncio.gather(*(service.caller.submit(NEW, **LATER) for _ in range(10)))
        assert [answer.status_code for answer in answers] == [202] * 10
        assert upstream.documents == 2

        advance(service, 301)
        for _ in range(3):
            assert "dream-9" in (await details(service, NEW | {"model": "dream-10"}))["model"][0]
        assert upstream.documents == 3


async def test_an_upstream_that_does_not_answer_holds_an_unknown_model_up_for_a_moment_only(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "PATIENCE_SECONDS", 0.2)
    async with before(serve, document("midjourney"), upstream_timeout_seconds=60) as (service, upstream):
        await documents.refresh_once(service.ctx)
        advance(service, 301)
        upstream.silent = True

        async with asyncio.timeout(30):
            await details(service, NEW)
            await details(service, NEW)
        assert upstream.documents == 2


@pytest.mark.parametrize(
    "raw",
    [b"{}", b'{"status":"ok"}', b"[]", b"<html>", b'{"paths":{}}', b'{"openapi":"3.1.0","paths":{"/v2/me":{}}}'],
)
async def test_what_is_no_document_of_submissions_takes_nothing_from_the_one_before(serve: Serve, raw: bytes) -> None:
    async with before(serve, document("midjourney")) as (service, upstream):
        await documents.refresh_once(service.ctx)
        upstream.document = raw
        advance(service, 25 * 3600)
        await documents.refresh_once(service.ctx)

        assert upstream.documents == 2
        assert await details(service, WRONG) == {"size": ["Unrecognized field"]}


async def test_a_document_that_the_database_does_not_keep_blocks_nothing(serve: Serve) -> None:
    async with before(serve, document("midjourney")) as (service, upstream):
        async with service.ctx.db.transaction() as tx:
            await tx.exec_driver_sql("ALTER TABLE catalogs ADD CHECK (document IS NULL)")
        await documents.refresh_once(service.ctx)

        job_id = await service.caller.accepted(WRONG)

        assert job_id in upstream.received
        assert await service.rows("SELECT document FROM catalogs WHERE document IS NOT NULL") == []


async def test_without_any_document_only_flux_is_checked(serve: Serve, simulate: Simulate) -> None:
    service = await serve(simulate(document="absent"), loops=False)
    await documents.refresh_once(service.ctx)

    assert await details(service, FLUX | {"size": "big"}) == {"size": ["Unrecognized field"]}
    await service.caller.accepted(WRONG, **LATER)
    await service.caller.accepted(NEW, **LATER)


async def test_to_warn_is_to_log_what_would_be_refused_and_to_send_it(serve: Serve) -> None:
    async with before(serve, document("midjourney"), validation="warn") as (service, upstream):
        await documents.refresh_once(service.ctx)
        with structlog.testing.capture_logs() as logs:
            job_id = await service.caller.accepted(WRONG)

        (said,) = [entry for entry in logs if entry["event"] == "submission.would_be_refused"]
        assert (said["operation"], said["variant"]) == ("images/generate", "midjourney")
        assert said["details"] == {"size": ["Unrecognized field"]}
        assert json.loads(upstream.received[job_id][1])["size"] == "big"
        assert await details(service, {"prompt": "x"}) == {"model": ["Required"]}


async def test_to_look_at_nothing_is_to_leave_all_to_the_upstream(serve: Serve) -> None:
    async with before(serve, document("midjourney"), validation="off") as (service, _):
        await documents.refresh_once(service.ctx)

        for body in (WRONG, NEW, FLUX | {"size": "big"}):
            await service.caller.accepted(body, **LATER)
        assert list(await details(service, WRONG | {"priority": "high"})) == ["priority"]


async def test_a_repeat_of_what_was_accepted_is_answered_though_the_document_refuses_it_now(serve: Serve) -> None:
    async with before(serve, document("midjourney", "dream-9")) as (service, upstream):
        await documents.refresh_once(service.ctx)
        job_id = await service.caller.accepted(NEW, Idempotency_Key="one", **LATER)
        upstream.document = document("midjourney")
        advance(service, 25 * 3600)
        await documents.refresh_once(service.ctx)

        assert await service.caller.accepted(NEW, Idempotency_Key="one", **LATER) == job_id
        refused(await service.caller.submit(NEW, Idempotency_Key="two", **LATER), 400)
        refused(await service.caller.submit(NEW | {"prompt": "y"}, Idempotency_Key="one", **LATER), 400)


async def test_faults_of_the_document_and_our_own_are_told_together(serve: Serve) -> None:
    async with before(serve, document("midjourney")) as (service, _):
        await documents.refresh_once(service.ctx)

        assert set(await details(service, WRONG | {"priority": 5000, "metadata": [], "prompt": ""})) == {
            *("size", "prompt", "priority", "metadata")
        }


def test_the_simulators_document_describes_all_that_its_bodies_take() -> None:
    """Otherwise submissions that it would take were refused before it saw them."""
    config = SimulatorConfig()
    schemas = openapi(config)["components"]["schemas"]
    assert schemas["ImagesGenerateRequest"]["oneOf"] == list(variants("images/generate", config).values())
    assert timedelta(seconds=1) < documents.LOOK_AGAIN < documents.RECENT < documents.DAILY
