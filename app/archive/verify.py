"""Check the archive against its records: every file read again and hashed, every object known to somebody."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final, Literal
from uuid import UUID

from app.archive.keep import file_of
from app.archive.queries import reading
from app.context import Context
from app.db import AnyRow
from app.objects import ObjectMissing, Objects, StorageFailed

AT_ONCE: Final = 200

Fault = Literal["missing", "changed", "unreadable"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A file that is not what its record says."""

    file_id: UUID
    job_id: UUID | None
    object: str
    fault: Fault
    text: str


@dataclass(slots=True)
class Report:
    """What a check found. `unknown` are objects that belong to no file: what killed attempts left."""

    checked: int = 0
    byte_count: int = 0
    findings: list[Finding] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    removed: int = 0


async def verify(ctx: Context, objects: Objects, *, remove_unknown: bool, told: Callable[[Report], None]) -> Report:
    """Read and hash every stored file, then look for objects that nobody knows. `told` hears after every file.

    Nothing is changed but, where that is asked for, that unknown objects are removed. Raises StorageFailed where the
    storage cannot be listed.
    """
    report = Report()
    async for file in _stored(ctx):
        finding = await _check(objects, file)
        report.checked += 1
        report.byte_count += file.byte_count
        if finding is not None and await _is_stored(ctx, file.id):
            report.findings.append(finding)
        told(report)
    async for page in objects.list():
        report.unknown += await _unknown(ctx, [name for name, _ in page])
    if remove_unknown:
        await objects.remove(report.unknown)
        report.removed = len(report.unknown)
    return report


async def _stored(ctx: Context) -> AsyncIterator[AnyRow]:
    after = UUID(int=0)
    while True:
        async with ctx.db.reading() as connection:
            rows = await reading.list_stored(connection, after=after, limit=AT_ONCE)
        for row in rows:
            yield row
        if len(rows) < AT_ONCE:
            return
        after = rows[-1].id


async def _is_stored(ctx: Context, file_id: UUID) -> bool:
    """Whether a file is still to be there: retention goes on while files are checked."""
    async with ctx.db.reading() as connection:
        file = await reading.find_file(connection, None, file_id)
    return file is not None and file.status == "stored"


async def _check(objects: Objects, file: AnyRow) -> Finding | None:
    hashed, size = hashlib.sha256(), 0
    try:
        size = await objects.size(file.object)
        async for piece in objects.pieces(file.object, 0, size):
            hashed.update(piece)
    except ObjectMissing:
        return Finding(file.id, file.job_id, file.object, "missing", "there is no such object")
    except StorageFailed as error:
        return Finding(file.id, file.job_id, file.object, "unreadable", str(error))
    if (size, hashed.digest()) == (file.byte_count, file.sha256):
        return None
    text = f"{size:,} bytes, SHA-256 {hashed.hexdigest()}; recorded were {file.byte_count:,} and {file.sha256.hex()}"
    return Finding(file.id, file.job_id, file.object, "changed", text)


async def _unknown(ctx: Context, names: list[str]) -> list[str]:
    """Which of these objects belong to no file. Names that are not of our making are left alone."""
    owners = {name: owner for name in names if (owner := file_of(name)) is not None}
    async with ctx.db.reading() as connection:
        # In this order: a file that is kept between the two questions is found by the second one.
        unfetched = await reading.list_unfetched(connection, set(owners.values()))
        needed = await reading.list_needed_objects(connection, set(owners.values()))
    return [name for name, owner in owners.items() if name not in needed and owner not in unfetched]
