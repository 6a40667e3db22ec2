"""What the commands of jobs decide without a service: filters, fields, names of files, rows, tables."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from app.cli.jobs.downloads import create_file, name_of, places
from app.cli.jobs.exporting import Rows
from app.cli.jobs.selection import Wanted, read_moment
from app.cli.jobs.submitting import with_fields
from app.cli.jobs.tables import table_of
from app.cli.jobs.watching import Board
from app.errors import StartupError

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
JOB: dict[str, Any] = {
    "id": "01a221ad-70a7-740e-8a60-06b1f2c96b1a",
    "status": "PROCESSING",
    "model": "flux-1.1-pro-ultra",
    "progress": 25,
    "creditCost": None,
    "createdAt": "2026-11-28T11:57:00.000Z",
    "completedAt": None,
    "error": None,
    "input": {"prompt": "[red]a lighthouse\n\x1b[2Jin a storm, seen from a boat that is about to sink"},
}


def test_a_filter_becomes_the_parameters_of_the_route() -> None:
    wanted = Wanted(status="FAILED", error_code="x", since="12h", until="2026-11-28T10:00", metadata=["a=b=c"], q="fox")
    assert wanted.query(NOW) == {
        "status": "FAILED",
        "q": "fox",
        "errorCode": "x",
        "createdAfter": "2026-11-28T00:00:00+00:00",
        "createdBefore": "2026-11-28T10:00:00+00:00",
        "metadata.a": "b=c",
    }
    assert Wanted().is_empty
    assert not Wanted(overdue=True).is_empty


@pytest.mark.parametrize(("text", "ago"), [("90s", 90), ("5m", 300), ("2h", 7200), ("1d", 86_400), ("1w", 604_800)])
def test_a_moment_may_be_told_by_how_long_ago_it_was(text: str, ago: int) -> None:
    assert read_moment(text, "--since", NOW) == NOW - timedelta(seconds=ago)


@pytest.mark.parametrize("text", ["", "h", "12", "12y", "-1h", "soon", "999999w"])
def test_what_is_no_moment_is_told_by_the_name_of_its_option(text: str) -> None:
    with pytest.raises(StartupError, match=r"^--since must be a time"):
        read_moment(text, "--since", NOW)


def test_fields_are_json_where_they_can_be_and_reach_into_objects() -> None:
    body = with_fields({"metadata": {"a": 1}}, ["n=4", "prompt=a = b", "metadata.b=true", 'size="4"', "style.x.y="])
    assert body == {"metadata": {"a": 1, "b": True}, "n": 4, "prompt": "a = b", "size": "4", "style": {"x": {"y": ""}}}


@pytest.mark.parametrize(("body", "pair"), [([], "a=1"), ({}, "a"), ({}, "=1"), ({}, "a..b=1"), ({"a": 1}, "a.b=1")])
def test_fields_that_fit_nowhere_are_refused(body: Any, pair: str) -> None:
    with pytest.raises(StartupError):
        with_fields(body, [pair])


@pytest.mark.parametrize(
    ("source", "content_type", "name"),
    [
        ("https://cdn.example/a/fox%20one.png?sig=x", "image/jpeg", "fox-one.png"),
        ("https://cdn.example/a/fox", "image/png; q=1", "fox.png"),
        ("https://cdn.example/", "image/webp", "job-1.webp"),
        ("https://cdn.example/..%2F..%2Fetc%2F.bashrc", "", "etc-.bashrc"),
        ("https://cdn.example/%2e%2e", "", "job-1"),
        ("https://cdn.example/" + "a" * 300 + ".png", "", "a" * 100 + ".png"),
    ],
)
def test_a_file_has_a_name_that_stays_in_its_folder(source: str, content_type: str, name: str) -> None:
    assert name_of(source, content_type, "job-1") == name


def test_a_file_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    for content in (b"one", b"two", b"three"):
        _, file = create_file(tmp_path / "new", "fox.png")
        with file:
            file.write(content)
    assert {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()} == {
        "fox.png": b"one",
        "fox-2.png": b"two",
        "fox-3.png": b"three",
    }


def test_what_is_kept_is_fetched_from_the_archive_once_and_the_rest_from_its_source() -> None:
    kept = {"id": "f1", "url": "https://ours.example/v1/files/f1", "source": "https://cdn.example/1.png"}
    rest = "https://cdn.example/2.png"
    for first in (kept["source"], "https://ours.example/v1/files/f1?signature=x"):
        job = {"files": [kept], "result": {"images": [first, rest]}}
        assert places(job) == [("/v1/files/f1", kept["source"]), (rest, rest)]


@settings(max_examples=50)
@given(rows=st.lists(st.text(alphabet='a",\n', max_size=5)), size=st.integers(1, 7))
def test_rows_are_counted_however_they_are_cut(rows: list[str], size: int) -> None:
    csv = "".join('"' + row.replace('"', '""') + '"\r\n' for row in ["id", *rows]).encode()
    jsonl = "".join(json.dumps({"prompt": row}) + "\n" for row in rows).encode()
    for whole, has_head in ((csv, True), (jsonl, False)):
        counted = Rows(has_head=has_head)
        for place in range(0, len(whole), size):
            counted.count(whole[place : place + size])
        assert counted.total == len(rows)


@pytest.mark.parametrize("width", [70, 80, 109, 110, 200])
def test_a_table_fits_the_terminal_with_whole_ids_and_nothing_in_it_is_obeyed(width: int) -> None:
    board = Board(rows=5)
    board.take({"timestamp": JOB["createdAt"], "data": JOB})
    for table in (table_of([JOB], NOW, width), board.table(width)):
        console = Console(file=io.StringIO(), width=width, force_terminal=False)
        console.print(table)
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        assert shown.count("\n") == 2
        assert max(map(len, shown.splitlines())) <= width
        assert JOB["id"] in shown
        assert "PROCESSING 25 %" in shown
        assert "\x1b" not in shown
        assert (JOB["model"] in shown) == (width >= 110)
        assert "[red" in shown


def test_the_board_has_the_newest_jobs_on_top_and_each_once() -> None:
    board = Board(rows=3)
    for number in (1, 2, 3, 1, 4):
        board.take({"timestamp": JOB["createdAt"], "data": JOB | {"id": str(number)}})
    assert [job["id"] for job in board.jobs] == ["4", "1", "3"]
