"""The kernel's rule 15, of result files: none is forgotten, and none is served but what its own attempt has stored whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.archive.keep import Kept, keep, object_name
from app.archive.queries import fetching, keeping, reading
from app.jobs import archiving as archiver
from app.jobs.archiving import Fetched, discard_unneeded, record
from tests.archive.stories import Archive, Simulate, archiving
from tests.harness import held_job
from tests.locks import blocked, stopped_at
from tests.media import png
from tests.objects import folder_place
from tests.sources import Source, sourcing


@pytest.fixture
async def archive(database_url: str, simulate: Simulate, tmp_path: Path) -> AsyncIterator[Archive]:
    """An archive that fetches when the test says so."""
    async with archiving(database_url, simulate, folder_place(tmp_path), loops=False) as running:
        yield running


@pytest.fixture
async def source() -> AsyncIterator[Source]:
    async with sourcing() as running:
        yield running


async def claim(archive: Archive, *, in_seconds: float = 0) -> Any:
    """Claim the one file there is, some time from now."""
    now = archive.service.ctx.now() + timedelta(seconds=in_seconds)
    async with archive.service.ctx.db.transaction() as tx:
        (claimed,) = await fetching.claim_files(tx, places=1, share=1, busy={}, now=now, until=now + archiver.LEASE)
    return claimed


async def attempt(archive: Archive, claimed: Any) -> bool:
    """Fetch a claimed file and record it; return whether that was this attempt's to do. What no row names is removed."""
    ctx = archive.service.ctx
    assert ctx.objects is not None
    name = object_name(claimed.id, claimed.completed_at, claimed.attempt_count)
    outcome = await keep(ctx, ctx.objects, claimed.source, name)
    assert isinstance(outcome, Kept)
    is_ours = await ctx.batched(record, Fetched(claimed=claimed, outcome=outcome, seconds=1.0))
    await discard_unneeded(ctx, claimed, [name])
    return is_ours


async def test_kernel_rule_15_a_job_is_not_completed_before_its_files_are_written_down(
    archive: Archive, source: Source
) -> None:
    held = await held_job(archive.service, archive.simulator)

    async with stopped_at(archive.service, "BEFORE INSERT ON files FOR EACH ROW"):
        finishing = asyncio.create_task(archive.finish(held, {"images": [source.serve("a.png", png())]}))
        await blocked(archive.service, 1)
        assert (await archive.service.job(held.id)).completed_at is None
    await finishing

    assert (await archive.service.job(held.id)).status == "COMPLETED"
    assert len(await archive.files(held.id)) == 1


async def test_kernel_rule_15_an_attempt_that_lost_its_lease_records_nothing(archive: Archive, source: Source) -> None:
    job_id = await archive.job({"images": [source.serve("a.png", png())]})
    overtaken = await claim(archive)
    await claim(archive, in_seconds=61)

    is_ours = await attempt(archive, overtaken)

    (file,) = await archive.files(job_id)
    assert (is_ours, file.status, file.object) == (False, "pending", None)


async def test_kernel_rule_15_an_overtaken_attempt_leaves_what_is_served_alone(
    archive: Archive, source: Source
) -> None:
    data = png()
    job_id = await archive.job({"images": [source.serve("a.png", data)]})
    overtaken, current = await claim(archive), await claim(archive, in_seconds=61)
    assert await attempt(archive, current)

    assert not await attempt(archive, overtaken)

    (file,) = await archive.files(job_id)
    answer = await archive.get(f"/v1/files/{file.id}")
    assert (answer.status_code, answer.content) == (200, data)


async def test_kernel_rule_15_a_commit_of_unknown_fate_does_not_cost_the_file_that_it_recorded(
    archive: Archive, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, ctx = png(), archive.service.ctx
    job_id = await archive.job({"images": [source.serve("a.png", data)]})
    transaction, write = ctx.db.transaction, fetching.record_outcomes
    written: list[bool] = []
    lost: list[bool] = []

    async def note(*args: Any, **more: Any) -> None:
        await write(*args, **more)
        written.append(True)

    @asynccontextmanager
    async def lose_the_answer(**how: Any) -> AsyncIterator[Any]:
        async with transaction(**how) as tx:
            yield tx
        if written and not lost:
            lost.append(True)
            raise ConnectionResetError("the connection was lost in the COMMIT")

    monkeypatch.setattr(fetching, "record_outcomes", note)
    monkeypatch.setattr(ctx.db, "transaction", lose_the_answer)
    claimed = await claim(archive)
    assert await attempt(archive, claimed)
    assert lost

    (file,) = await archive.files(job_id)
    answer = await archive.get(f"/v1/files/{file.id}")
    assert (file.status, answer.status_code, answer.content) == ("stored", 200, data)


async def test_kernel_rule_15_what_a_row_names_is_not_removed_whatever_was_heard_of_its_record(
    archive: Archive, source: Source
) -> None:
    data = png()
    job_id = await archive.job({"images": [source.serve("a.png", data)]})
    claimed = await claim(archive)
    assert await attempt(archive, claimed)
    (file,) = await archive.files(job_id)
    left = f"{file.object}7"
    await archive.place.write(left, b"of an attempt that was killed")

    await discard_unneeded(archive.service.ctx, claimed, [file.object, left])

    assert await archive.place.names() == [file.object, file.thumbnail]
    assert (await archive.get(f"/v1/files/{file.id}")).content == data


async def test_kernel_rule_15_nothing_is_removed_while_the_database_cannot_be_asked(
    archive: Archive, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    await archive.job({"images": [source.serve("a.png", png())]})
    claimed = await claim(archive)
    assert await attempt(archive, claimed)
    names = await archive.place.names()

    async def away(*_: Any) -> None:
        raise ConnectionRefusedError

    with monkeypatch.context() as patch:
        patch.setattr(reading, "list_needed_objects", away)
        await discard_unneeded(archive.service.ctx, claimed, names)

    assert await archive.place.names() == names


async def test_kernel_rule_15_what_is_not_stored_any_more_is_not_served_though_its_object_is_there(
    archive: Archive, source: Source
) -> None:
    job_id = await archive.job({"images": [source.serve("a.png", png())]})
    assert await attempt(archive, await claim(archive))
    (file,) = await archive.files(job_id)
    assert (await archive.get(f"/v1/files/{file.id}")).status_code == 200

    async with archive.service.ctx.db.transaction() as tx:
        later = archive.service.ctx.now() + timedelta(days=1)
        assert await keeping.condemn_files(tx, stored_before=later, limit=10) == 1

    assert file.object in await archive.place.names()
    assert (await archive.get(f"/v1/files/{file.id}")).status_code == 404
    assert (await archive.get(f"/v1/files/{file.id}/thumbnail")).status_code == 404
