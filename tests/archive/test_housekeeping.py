"""The archive is checked against its records, filled up, and emptied, while services run and storage comes and goes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import pytest

from app.archive.queries import keeping, reading
from app.archive.verify import Finding, Report, verify
from app.context import Context, open_context
from app.jobs import backfill as filling
from app.jobs.archiving import MOST_REFUSALS, tell_late_once
from app.jobs.archiving import run_once as archiving_of
from app.jobs.backfill import backfill
from app.objects import StorageFailed
from app.ops import pruning
from app.ops.pruning import remove_files_once
from app.ops.status import read_keeping
from tests.archive.stories import Archive, Simulate, archiving
from tests.harness import FrozenClock, eventually, refused
from tests.media import png, wav
from tests.objects import FolderPlace, Place
from tests.sources import Gate, Source

DAY: Final = timedelta(days=1)


@pytest.fixture
async def quiet(database_url: str, simulate: Simulate, place: Place) -> AsyncIterator[Archive]:
    """A service that fetches and deletes nothing by itself."""
    async with archiving(database_url, simulate, place, loops=False, files_days=7) as running:
        yield running


async def checked(ctx: Context, *, remove: bool = False, told: Callable[[Report], None] = lambda _: None) -> Report:
    assert ctx.objects is not None
    return await verify(ctx, ctx.objects, remove_unknown=remove, told=told)


async def filled(ctx: Context, told: Callable[[int, int], None] = lambda _done, _all: None) -> dict[str, int]:
    return dict(await backfill(ctx, since=ctx.now() - 7 * DAY, told=told))


async def completed_while_off(archive: Archive, *urls: str) -> str:
    """A job that completed while nothing was kept."""
    ctx = archive.service.ctx
    objects, ctx.objects = ctx.objects, None
    job_id = await archive.job({"images": list(urls)})
    ctx.objects = objects
    assert await archive.files(job_id) == []
    return job_id


async def kept(archive: Archive, *urls: str) -> str:
    """The id of a job whose files are kept."""
    job_id = await archive.job({"images": list(urls)})
    await filled(archive.service.ctx)
    assert (await archive.service.caller.read(job_id))["archiveStatus"] == "stored"
    return job_id


async def give_up_after_this(ctx: Context) -> None:
    """Have what fails at the next attempt given up."""
    async with ctx.db.transaction() as tx:
        await tx.exec_driver_sql(f"UPDATE files SET refused_count = {MOST_REFUSALS - 1}, give_up_at = now()")


def later(archive: Archive, time: timedelta) -> None:
    """Have the service's clock stand so much later than now."""
    clock = archive.service.ctx.clock = FrozenClock()
    clock.time += time


# Verifying


async def test_an_archive_that_is_whole_is_found_so(quiet: Archive, source: Source) -> None:
    data = [png(seed=n) for n in range(3)]
    await kept(quiet, *(source.serve(f"{n}.png", picture) for n, picture in enumerate(data)))
    counts: list[int] = []
    report = await checked(quiet.service.ctx, told=lambda report: counts.append(report.checked))
    assert report == Report(checked=3, byte_count=sum(map(len, data)))
    assert counts == [1, 2, 3]


async def test_files_that_are_missing_or_changed_are_found(quiet: Archive, source: Source, place: Place) -> None:
    data = [png(20, 20, seed=n) for n in range(4)]
    job_id = await kept(quiet, *(source.serve(f"{n}.png", picture) for n, picture in enumerate(data)))
    good, missing, changed, shorter = await quiet.files(job_id)
    await place.remove(missing.object)
    await place.write(changed.object, data[2][:-1] + b"x")
    await place.write(shorter.object, data[3][:100])
    report = await checked(quiet.service.ctx, remove=True)
    assert {(found.file_id, found.fault) for found in report.findings} == {
        (missing.id, "missing"),
        (changed.id, "changed"),
        (shorter.id, "changed"),
    }
    assert {found.job_id for found in report.findings} == {UUID(job_id)}
    assert (report.checked, report.unknown, report.removed) == (4, [], 0)
    assert good.object in await place.names()


async def test_what_killed_attempts_left_is_found_and_removed_on_request(
    quiet: Archive, source: Source, place: Place
) -> None:
    job_id = await kept(quiet, source.serve("a.png", png()))
    (file,) = await quiet.files(job_id)
    names = await place.names()
    folder, stem = file.object.rpartition("/")[0], file.object.rpartition(".")[0]
    left = [f"{stem}.7", f"{stem}.7.thumbnail", f"{folder}/{uuid4()}.1", f"2001/02/03/{uuid4()}.12.thumbnail"]
    half = [f"{folder}/{uuid4()}.2"] if isinstance(place, FolderPlace) else []  # of a bucket no such thing is listed
    for name in (*left, *(f"{name}#1" for name in half)):
        await place.write(name, b"left by an attempt that was killed")
    for _ in range(2):
        report = await checked(quiet.service.ctx)
        assert (sorted(report.unknown), report.removed, report.findings) == (sorted(left + half), 0, [])
    report = await checked(quiet.service.ctx, remove=True)
    assert report.removed == len(left + half)
    assert await place.names() == names
    assert (await checked(quiet.service.ctx)).unknown == []


async def test_what_is_not_of_our_making_is_left_alone(quiet: Archive, place: Place) -> None:
    foreign = [
        "notes.txt",
        f"{uuid4()}.png",
        f"photos/{uuid4()}.1",
        f"photos/2001/02/03/{uuid4()}.1",
        f"2001/02/03/{uuid4()}.png",
        f"2001/02/03/{uuid4()}",
        f"2001/02/03/{uuid4()}.1.thumbnail.bak",
        f"2001/02/03/{uuid4().hex}.1",
        "2001/02/03/readme.1",
    ]
    for name in foreign:
        await place.write(name, b"somebody else's")
    report = await checked(quiet.service.ctx, remove=True)
    assert (report.unknown, report.removed) == ([], 0)
    assert await place.names() == sorted(foreign)


async def test_what_a_running_attempt_has_written_is_left_alone(archive: Archive, source: Source, place: Place) -> None:
    gate = Gate(after=1000)
    job_id = await archive.job({"images": [source.serve("a.png", png(100, 100), gate=gate)]})
    await asyncio.wait_for(gate.reached.wait(), 60)
    (file,) = await archive.files(job_id)
    name = f"{file.completed_at:%Y/%m/%d}/{file.id}.{file.attempt_count}.thumbnail"
    await place.write(name, b"as if it had come so far")
    report = await checked(archive.service.ctx, remove=True)
    assert (report.unknown, name in await place.names()) == ([], True)
    gate.released.set()
    await archive.settled(job_id)
    assert (await checked(archive.service.ctx)).findings == []


async def test_a_file_that_is_kept_while_its_object_is_judged_stays(
    archive: Archive, source: Source, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two questions that are asked about an object the attempt which wrote it comes to its end."""
    gate = Gate(after=1000)
    job_id = await archive.job({"images": [source.serve("a.png", png(100, 100), gate=gate)]})
    await asyncio.wait_for(gate.reached.wait(), 60)
    (file,) = await archive.files(job_id)
    name = f"{file.completed_at:%Y/%m/%d}/{file.id}.{file.attempt_count}"
    await place.write(name, b"listed before it was replaced by the whole")

    def then_it_ends(asked: Callable[..., Any]) -> Callable[..., Any]:
        async def ask(*arguments: Any) -> Any:
            answer = await asked(*arguments)
            gate.released.set()
            await archive.settled(job_id)
            return answer

        return ask

    for question in ("list_needed_objects", "list_unfetched"):
        monkeypatch.setattr(reading, question, then_it_ends(getattr(reading, question)))
    report = await checked(archive.service.ctx, remove=True)
    assert report.unknown == []
    assert (await archive.get(f"/v1/files/{file.id}")).content == png(100, 100)


async def test_a_file_that_is_deleted_while_it_is_checked_is_not_missing(
    quiet: Archive, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    await kept(quiet, source.serve("a.png", png()))
    later(quiet, 8 * DAY)
    listed = reading.list_stored

    async def list_and_delete(*arguments: Any, **more: Any) -> Any:
        rows = await listed(*arguments, **more)
        await remove_files_once(quiet.service.ctx)
        return rows

    monkeypatch.setattr(reading, "list_stored", list_and_delete)
    report = await checked(quiet.service.ctx)
    assert (report.checked, report.findings) == (1, [])


async def test_storage_that_is_away_is_no_loss_of_files(quiet: Archive, source: Source, place: Place) -> None:
    await kept(quiet, source.serve("a.png", png()))
    found: list[Finding] = []
    with place.refusing(), suppress(StorageFailed):  # a folder that is none has nothing in it, as far as one can see
        await checked(quiet.service.ctx, told=lambda report: found.extend(report.findings))
    assert [finding.fault for finding in found] == ["unreadable"]


# Filling up


async def test_files_of_jobs_that_completed_while_the_archive_was_off_are_kept(quiet: Archive, source: Source) -> None:
    urls = [source.serve(f"{n}.png", png(seed=n)) for n in range(20)]
    jobs = [await completed_while_off(quiet, *urls[:3]), await completed_while_off(quiet, *urls[3:])]
    told: list[tuple[int, int]] = []
    assert await filled(quiet.service.ctx, lambda done, all_: told.append((done, all_))) == {"stored": 20}
    assert told == sorted(told)
    assert (told[0], told[-1], {all_ for _, all_ in told}) == ((0, 20), (20, 20), {20})
    for job_id, count in zip(jobs, (3, 17), strict=True):
        job = await quiet.service.caller.read(job_id)
        assert (job["archiveStatus"], len(job["files"])) == ("stored", count)
        assert len(await quiet.events(job_id, "job.archived")) == 1
    assert await filled(quiet.service.ctx) == {}


async def test_what_could_not_be_kept_is_tried_again(quiet: Archive, source: Source) -> None:
    ctx = quiet.service.ctx
    url = source.serve("a.png", png(), declared_length=10**12)
    job_id = await quiet.job({"images": [url, source.serve("b.wav", wav())]})
    assert await filled(ctx) == {}  # what is due anyway is fetched and not counted
    assert (await quiet.service.caller.read(job_id))["archiveStatus"] == "failed"
    assert await filled(ctx) == {"failed": 1}
    source.serve("a.png", png())
    assert await filled(ctx) == {"stored": 1}
    job = await quiet.service.caller.read(job_id)
    assert (job["archiveStatus"], len(job["files"])) == ("stored", 2)
    assert len(await quiet.events(job_id, "job.archived"))


async def test_what_may_work_soon_is_left_to_whatever_service_runs(quiet: Archive, source: Source) -> None:
    await completed_while_off(quiet, source.serve("a.png", png(), status=503), source.serve("b.png", png(), status=404))
    assert await filled(quiet.service.ctx) == {"pending": 2}


@pytest.mark.parametrize("status", [503, 404])
async def test_what_is_most_likely_purged_is_tried_once(quiet: Archive, source: Source, status: int) -> None:
    job_id = await completed_while_off(
        quiet, source.serve("a.png", png(), status=status), source.serve("b.png", png(seed=1))
    )
    later(quiet, 2 * DAY)
    assert await filled(quiet.service.ctx) == {"failed": 1, "stored": 1}
    assert [row.attempt_count for row in await quiet.files(job_id)] == [1, 1]
    assert await filled(quiet.service.ctx) == {"failed": 1}
    assert len(source.asked("a.png")) == 2 < MOST_REFUSALS


async def test_a_backfill_that_changes_nothing_tells_nothing(quiet: Archive, source: Source) -> None:
    ctx = quiet.service.ctx
    bad = source.serve("b.png", png(seed=1), declared_length=10**12)
    job_id = await quiet.job({"images": [source.serve("a.png", png()), bad]})

    async def told() -> dict[str, int]:
        events = await quiet.events(job_id, "job.archived", "job.archive_failed")
        return dict(Counter(event["type"] for event in events))

    await filled(ctx)
    assert await told() == {"job.archived": 1, "job.archive_failed": 1}
    for _ in range(2):
        assert await filled(ctx) == {"failed": 1}
        assert await told() == {"job.archived": 1, "job.archive_failed": 1}
    source.serve("b.png", png(seed=1))
    assert await filled(ctx) == {"stored": 1}
    assert await told() == {"job.archived": 2, "job.archive_failed": 1}


@pytest.mark.parametrize("known", [False, True], ids=["never written down", "given up"])
async def test_old_jobs_that_are_filled_up_raise_no_alarm(quiet: Archive, source: Source, known: bool) -> None:
    ctx, url = quiet.service.ctx, source.serve("a.png", png(), status=503)
    if known:
        job_id = await quiet.job({"images": [url]})
        await give_up_after_this(ctx)
        assert await archiving_of(ctx) == 1
    else:
        job_id = await completed_while_off(quiet, url)
    later(quiet, 5 * DAY)
    await filling._want(ctx, ctx.now() - 30 * DAY)
    assert [row.status for row in await quiet.files(job_id)] == ["pending"]
    assert await tell_late_once(ctx) == 0
    assert await quiet.events(job_id, "job.archive_late") == []
    keeping_ = await read_keeping(ctx)
    assert (keeping_.pending, keeping_.late) == (1, 0)


async def test_jobs_before_that_time_are_left_alone(quiet: Archive, source: Source) -> None:
    job_id = await completed_while_off(quiet, source.serve("a.png", png()))
    ctx = quiet.service.ctx
    assert await backfill(ctx, since=ctx.now() + DAY, told=lambda _done, _all: None) == {}
    assert await quiet.files(job_id) == []


async def test_with_a_service_running_nothing_is_fetched_twice(archive: Archive, source: Source, place: Place) -> None:
    names = [f"{n}.png" for n in range(30)]
    urls = [source.serve(name, png(seed=n), pause_seconds=0.01) for n, name in enumerate(names)]
    job_id = await completed_while_off(archive, *urls)
    async with open_context(archive.service.ctx.settings) as ctx:
        counts, again = await asyncio.gather(filled(ctx), filled(archive.service.ctx))
    await archive.settled(job_id)
    assert {row.status for row in await archive.files(job_id)} == {"stored"}
    assert [len(source.asked(name)) for name in names] == [1] * 30
    assert sum(counts.values()) + sum(again.values()) == 30
    assert len(await place.names()) == 60


# Retention


async def test_files_past_their_days_are_not_served_and_then_gone(quiet: Archive, source: Source, place: Place) -> None:
    old = await kept(quiet, source.serve("a.png", png()), source.serve("b.wav", wav()))
    later(quiet, 4 * DAY)
    young = await kept(quiet, source.serve("c.png", png(seed=3)))
    ctx = quiet.service.ctx
    (young_file,) = await quiet.files(young)
    assert await remove_files_once(ctx) == 0
    assert not (await quiet.service.caller.read(old))["expired"]
    later(quiet, 8 * DAY)
    with place.refusing():
        assert await remove_files_once(ctx) == 0
    rows = await quiet.files(old)
    for row in rows:
        assert "deleted" in refused(await quiet.get(f"/v1/files/{row.id}"), 404)["error"]
    assert {row.object for row in rows} < set(await place.names())
    assert await remove_files_once(ctx) == 2
    assert await remove_files_once(ctx) == 0
    assert await place.names() == [young_file.object, young_file.thumbnail]
    job = await quiet.service.caller.read(old)
    assert (job["expired"], job["archiveStatus"], job["files"]) == (True, None, [])
    assert not (await quiet.service.caller.read(young))["expired"]
    assert [(row.status, row.object, row.thumbnail) for row in await quiet.files(old)] == [("deleted", None, None)] * 2
    assert await filled(ctx) == {}
    assert (await checked(ctx)).unknown == []


async def test_what_cannot_be_removed_keeps_nothing_else(
    quiet: Archive, source: Source, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "MOST_ERRORS", 2)
    job_id = await kept(quiet, *(source.serve(f"{n}.png", png(seed=n)) for n in range(5)))
    held = {row.object for row in sorted(await quiet.files(job_id), key=lambda row: row.id)[:3]}
    ctx = quiet.service.ctx
    assert ctx.objects is not None
    remove = ctx.objects.remove

    async def hold(names: list[str]) -> None:
        if held & set(names):
            raise StorageFailed("AccessDenied: the object is under a legal hold")
        await remove(names)

    later(quiet, 8 * DAY)
    with monkeypatch.context() as patch:
        patch.setattr(ctx.objects, "remove", hold)
        assert [await remove_files_once(ctx) for _ in range(4)] == [0, 2, 0, 0]
    assert {row.object for row in await quiet.files(job_id)} == {*held, None}
    while await remove_files_once(ctx) or await remove_files_once(ctx):
        pass
    assert await place.names() == []


async def test_a_crash_half_way_has_objects_removed_the_next_time(
    quiet: Archive, source: Source, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await kept(quiet, source.serve("a.png", png()))
    ctx = quiet.service.ctx
    later(quiet, 8 * DAY)

    async def crash(*_: Any) -> None:
        raise SystemError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(keeping, "forget_objects", crash)
        with pytest.raises(SystemError):
            await remove_files_once(ctx)
    assert await place.names() == []
    assert await remove_files_once(ctx) == 1
    (row,) = await quiet.files(job_id)
    assert (row.status, row.object) == ("deleted", None)


async def test_the_files_of_a_job_that_is_gone_go_and_then_their_rows(
    archive: Archive, source: Source, place: Place
) -> None:
    """Whatever had become of them: kept, given up, on their way, or deleted before."""
    gate, ctx = Gate(after=10), archive.service.ctx
    urls = [
        source.serve("a.png", png()),
        "http://10.0.0.1/b.png",
        source.serve("c.png", png(), gate=gate),
        source.serve("d.png", png(seed=4)),
    ]
    other = await archive.kept(source.serve("e.png", png(seed=5)))
    job_id = await archive.job({"images": urls})
    want = ["stored", "failed", "pending", "stored"]
    rows = await eventually(lambda: archive.files(job_id), lambda rows: [row.status for row in rows] == want)
    async with ctx.db.transaction() as tx:
        await tx.exec_driver_sql(f"UPDATE files SET status = 'deleted' WHERE id = '{rows[3].id}'")
    await remove_files_once(ctx)
    async with ctx.db.transaction() as tx:
        await tx.exec_driver_sql(f"DELETE FROM jobs WHERE id = '{job_id}'")
    while await remove_files_once(ctx):
        pass
    gate.released.set()
    await eventually(lambda: asyncio.sleep(0, ctx.fetching), lambda fetching: not fetching)
    (left,) = await archive.service.rows("SELECT id, object, thumbnail FROM files")
    assert str(left.id) == other[0]["id"]
    assert await eventually(place.names, lambda names: len(names) == 2) == [left.object, left.thumbnail]
