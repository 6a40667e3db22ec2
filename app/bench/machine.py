"""What everything ran on, and how much of its processors each process took. Read from /proc, where there is one."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import StartupError

DURABLE: Final = ("fsync", "synchronous_commit", "full_page_writes")
SETTINGS: Final = (*DURABLE, "shared_buffers", "max_wal_size", "wal_sync_method", "max_connections", "autovacuum")

_PROC: Final = Path("/proc")


async def describe(connection: AsyncConnection, data_dir: Path) -> dict[str, Any]:
    """The machine and the database. Raises StartupError where PostgreSQL would lose what it committed."""
    settings = {name: str(await connection.scalar(text(f"SHOW {name}"))) for name in SETTINGS}
    check_durable(settings)
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
        "file_system": _file_system(data_dir),
        "postgresql": str(await connection.scalar(text("SHOW server_version"))),
        "settings": settings,
    }


def check_durable(settings: Mapping[str, str]) -> None:
    """Raise StartupError unless every commit is on the disk before it is told."""
    if off := [name for name in DURABLE if settings[name] != "on"]:
        raise StartupError(f"PostgreSQL runs with {', '.join(off)} off: nothing measured with it would mean anything")


def cpu_seconds(pids: Iterable[int]) -> float | None:
    """What these processes and all below them have used so far, those that ended and were waited for too."""
    ticks = [_ticks(_PROC / str(pid)) for pid in _with_children(pids)]
    return sum(ticks) / os.sysconf("SC_CLK_TCK") if ticks else None


def resident_mb(pids: Iterable[int]) -> float | None:
    """The memory that these processes and all below them hold."""
    found = [_status(_PROC / str(pid), "VmRSS:") for pid in _with_children(pids)]
    return sum(found) / 1024 if found else None


def _with_children(pids: Iterable[int]) -> set[int]:
    """These processes and their descendants that live."""
    parents = {}
    for entry in _PROC.glob("[0-9]*"):
        if (fields := _stat(entry)) is not None:
            parents[int(entry.name)] = int(fields[1])
    found = set(pids) & set(parents)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _ticks(process: Path) -> int:
    """User and system time of a process and of its children that ended (proc_pid_stat(5), fields 14 to 17)."""
    fields = _stat(process)
    return sum(int(field) for field in fields[11:15]) if fields is not None else 0


def _stat(process: Path) -> list[str] | None:
    """The fields of `stat` from the third on; the second is a name that may hold anything."""
    with suppress(OSError):
        return (process / "stat").read_text().rpartition(")")[2].split()
    return None


def _status(process: Path, name: str) -> int:
    with suppress(OSError):
        for line in (process / "status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    return 0


def _processor() -> str:
    with suppress(OSError):
        for line in (_PROC / "cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _file_system(folder: Path) -> str:
    """The type of the file system that a folder is on; on one in memory a commit waits for nothing."""
    best, kind = "", "unknown"
    with suppress(OSError):
        for line in (_PROC / "mounts").read_text().splitlines():
            _device, place, found = line.split()[:3]
            if folder.is_relative_to(place) and len(place) >= len(best):
                best, kind = place, found
    return kind
