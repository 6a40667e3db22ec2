"""Commands of kept files, as an operator and as a script see them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.simulator.server import RunningSimulator
from tests.processes.harness import (
    Ended,
    Program,
    client,
    eventually,
    free_port,
    in_front_of,
    query,
    read,
    ready,
    status_of,
    submit,
)

Launch = Callable[..., Program]
Run = Callable[..., list[Ended]]


def archived(caller: Any, job_id: str) -> list[dict[str, Any]]:
    """What is said of a job's files, once they are kept."""

    def look() -> list[dict[str, Any]]:
        job = read(caller, job_id)
        return list(job["files"]) if job["archiveStatus"] == "stored" else []

    return eventually(look)


def objects(archive: Path) -> list[Path]:
    return sorted(path for path in archive.rglob("*") if path.is_file())


def test_the_archive_is_verified_and_what_is_wrong_with_it_is_shown(
    launch: Launch, run: Run, simulator: RunningSimulator, database_url: str, tmp_path: Path
) -> None:
    archive = tmp_path / "[/]archive"
    settings = in_front_of(simulator, database_url, archive_url=archive.as_uri())
    with client(ready(launch("serve", **settings))) as caller:
        kept = [archived(caller, submit(caller, f"picture {n}"))[0] for n in range(3)]

        for_scripts, for_people = run(("files verify --json", settings), ("files verify", settings))
        assert (for_scripts.exit_code, for_people.exit_code) == (0, 0)
        total = sum(file["bytes"] for file in kept)
        sound = {"checked": 3, "byte_count": total, "findings": [], "unknown": [], "removed": 0}
        assert json.loads(for_scripts.printed) == sound
        assert for_people.printed == f"3 files, {total:,} bytes: 0 missing or changed.\n"

        by_id = {path.name.partition(".")[0]: path for path in objects(archive) if path.suffix != ".thumbnail"}
        missing, changed = (by_id[file["id"]] for file in kept[:2])
        missing.unlink()
        changed.write_bytes(b"[/] nothing like it")
        unknown = changed.with_name("01987c5e-7a2b-7c3d-8e4f-5a6b7c8d9e0f.1")
        unknown.write_bytes(b"left by an attempt that was killed")

        for_scripts, for_people = run(("files verify --json", settings), ("files verify", settings))
        assert (for_scripts.exit_code, for_people.exit_code) == (1, 1)
        report = json.loads(for_scripts.printed)
        assert {(found["file_id"], found["fault"]) for found in report["findings"]} == {
            (kept[0]["id"], "missing"),
            (kept[1]["id"], "changed"),
        }
        assert report["unknown"] == [unknown.relative_to(archive).as_posix()]
        assert all(file["id"] in for_people.printed for file in kept[:2])
        assert "2 missing or changed." in for_people.printed
        assert "1 objects that belong to no file: found; --remove-unknown removes them." in for_people.printed
        assert unknown.exists()

        (removed,) = run(("files verify --remove-unknown", settings))
        assert (removed.exit_code, "no file: removed." in removed.printed, unknown.exists()) == (1, True, False)
        assert "Traceback" not in "".join(one.said for one in (for_scripts, for_people, removed))


def test_what_completed_while_the_archive_was_off_is_kept_by_a_command(
    launch: Launch, run: Run, simulator: RunningSimulator, database_url: str, tmp_path: Path
) -> None:
    archive = tmp_path / "archive"
    off = in_front_of(simulator, database_url, archive_url="off")
    on = off | {"archive_url": archive.as_uri()}
    with client(ready(launch("serve", **off))) as caller:
        jobs = [submit(caller, f"picture {n}") for n in range(2)]
        assert [read(caller, job, wait=30)["archiveStatus"] for job in jobs] == [None, None]

        (for_scripts,) = run(("files backfill --days 2 --json", on))
        (for_people,) = run(("files backfill", on))

        assert (for_scripts.exit_code, json.loads(for_scripts.printed)) == (0, {"stored": 2, "failed": 0, "pending": 0})
        assert (for_people.exit_code, for_people.printed) == (0, "0 stored, 0 could not be had.\n")
        assert len(objects(archive)) == 4
        assert [read(caller, job)["archiveStatus"] for job in jobs] == ["stored"] * 2
        # Whoever turned the archive off is told so, where a file is asked for.
        file = read(caller, jobs[0])["files"][0]
        assert caller.get(f"/v1/files/{file['id']}").json() == {"error": "The archive is off: FRAMEHOOK_ARCHIVE_URL"}


@pytest.mark.parametrize("workers", [1, 2])
def test_files_are_said_to_be_where_the_service_listens(
    launch: Launch, simulator: RunningSimulator, database_url: str, workers: int
) -> None:
    """Also where that is said on the command line only, or chosen by the system."""
    ports = ("--port", str(free_port())) if workers == 2 else ()
    service = launch("serve", "--workers", str(workers), *ports, **in_front_of(simulator, database_url))
    with client(url := ready(service)) as caller:
        (file,) = archived(caller, submit(caller))
        assert file["url"] == f"{url}/v1/files/{file['id']}"
        link = caller.post(f"/v1/files/{file['id']}/links").json()["url"]
        assert [status_of(link), status_of(file["url"])] == [200, 401]


def test_what_is_kept_of_a_team_is_said_by_a_command(
    launch: Launch, run: Run, simulator: RunningSimulator, database_url: str
) -> None:
    database = {"DATABASE_URL": database_url}
    ready(launch("serve", **in_front_of(simulator, database_url)))
    wanted = {
        "[/]writers": ("'video, music'", ["video", "music"], "video, music"),
        "none": ("none", [], "nothing"),
        "pictures": ("image", ["image"], "image"),
        "usual": ("default", None, "what the settings say"),
    }
    run(*((f"keys create --team '{team}'", database) for team in wanted))
    query(database_url, "UPDATE teams SET archived_modalities = '{music}' RETURNING 1")

    ended = run(*((f"files keep '{team}' {choice}", database) for team, (choice, _, _) in wanted.items()))

    for one, (team, (_, stored, words)) in zip(ended, wanted.items(), strict=True):
        assert (one.exit_code, one.printed) == (0, f"Of team {team} is kept: {words}.\n")
        assert query(database_url, f"SELECT archived_modalities FROM teams WHERE name = '{team}'") == [stored]
    assert query(database_url, "SELECT archived_modalities FROM teams WHERE name = 'admin'") == [["music"]]


def test_what_cannot_be_done_with_files_is_one_line(
    launch: Launch, run: Run, simulator: RunningSimulator, database_url: str, tmp_path: Path
) -> None:
    database = {"DATABASE_URL": database_url, "APIFRAME_BASE_URL": simulator.url}
    ready(launch("serve", **in_front_of(simulator, database_url)))
    off = database | {"archive_url": "off"}
    (tmp_path / "file").write_text("no folder")
    nowhere = database | {"archive_url": (tmp_path / "file" / "archive").as_uri()}
    ended = run(
        ("files verify", off),
        ("files backfill --json", off),
        ("files keep nobody image", database),
        ("files keep admin image,pictures", database),
        ("files keep admin ''", database),
        ("files backfill --days 0", database),
        ("files verify --json", nowhere),
    )
    choices = "there are image, video, music, none, and default"
    assert [(one.exit_code, one.said) for one in ended[:5]] == [
        (1, "framehook: the archive is off: FRAMEHOOK_ARCHIVE_URL\n"),
        (1, "framehook: the archive is off: FRAMEHOOK_ARCHIVE_URL\n"),
        (1, "framehook: there is no team nobody\n"),
        (1, f"framehook: unknown pictures; {choices}\n"),
        (1, f"framehook: unknown ''; {choices}\n"),
    ]
    assert ended[5].exit_code == 2
    assert ended[6].exit_code == 1
    assert ended[6].said.startswith("framehook: the storage cannot be read: ")
    assert ended[6].said.count("\n") == 1
