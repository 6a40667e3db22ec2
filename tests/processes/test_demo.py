"""`framehook demo` on a machine with nothing but itself."""

from __future__ import annotations

import io
import json
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.processes.harness import Program, client, command_of, eventually, postgres_is_gone, read


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a space in its name, as people have them."""
    path = tmp_path / "my demo"
    path.mkdir()
    return path


def test_the_demo_shows_a_job_and_stays_up_to_be_played_with(launch: Callable[..., Program], folder: Path) -> None:
    # What the environment says of a database or an upstream is left aside.
    elsewhere = {
        "DATABASE_URL": "postgresql://someone@127.0.0.1:1/framehook",
        "APIFRAME_BASE_URL": "https://api.apiframe.example",
        "PUBLIC_BASE_URL": "https://framehook.example",
        "archive_url": "s3://somebodys/bucket",
        "loops": False,
    }
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        first = launch("demo", "--once", "--port", str(port), **elsewhere)
        assert first.wait(120) == 0, first.said
        assert re.search(r"accepted as job .*\n( +(QUEUED|PROCESSING) .*\n)* +COMPLETED +100 %\n", first.printed), (
            first.printed
        )
        assert re.search(r"image/png, [\d,]{4,} bytes", first.printed)
        assert re.search(r"kept +http://127\.0\.0\.1:\d+/v1/files/[0-9a-f-]{36}\n", first.printed), first.printed
        assert "curl" not in first.printed
        assert "Traceback" not in first.said
        assert first.leaves_nothing()
        assert postgres_is_gone(folder / ".framehook")

        second = launch("demo", "--port", str(port), **elsewhere)
        eventually(lambda: "Ctrl-C" in second.printed or not second.running, seconds=120)
        assert f"127.0.0.1:{port}" not in second.printed
    submission, listing, whole = re.findall(r"^curl .*$", second.printed, re.MULTILINE)
    answer = json.loads(in_a_shell(submission))
    assert set(answer) == {"jobId", "status"}
    assert {"jobs", "nextCursor", "hasMore"} <= set(json.loads(in_a_shell(listing)))
    address = re.search(r"http://127\.0\.0\.1:\d+(?=/v2/)", submission)
    key = re.search(r"^Key +(\S+)$", second.printed, re.MULTILINE)
    assert address is not None
    assert key is not None
    assert f"framehook listen --url {address[0]} --key {key[1]}" in second.printed
    dashboard = re.search(r"^Dashboard +(\S+)/ops  key (\S+)$", second.printed, re.MULTILINE)
    assert dashboard is not None
    with signed_in(dashboard[1], dashboard[2]) as operator:
        assert "Break it" in operator.get("/ops").text
    with client(address[0], key[1]) as caller:
        job = read(caller, answer["jobId"], wait=30)
        assert caller.get("/docs").status_code == 200
    assert job["status"] == "COMPLETED"
    picture = httpx.get(job["result"]["images"][0], trust_env=False, timeout=60)
    assert picture.headers["content-type"].startswith("image/")
    Image.open(io.BytesIO(picture.content)).verify()
    assert in_a_shell(whole, folder) == ""
    Image.open(folder / "picture.jpg").verify()

    second.ctrl_c()
    assert second.wait() == 0
    assert "Traceback" not in second.said
    assert second.leaves_nothing()
    assert postgres_is_gone(folder / ".framehook")


def in_a_shell(line: str, folder: Path | None = None) -> str:
    """What a line prints when it is pasted into a shell."""
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=90, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_whatever_is_broken_in_the_demo_nothing_is_lost(launch: Callable[..., Program], folder: Path) -> None:
    demo = launch("demo", "--port", "0")
    eventually(lambda: "Ctrl-C" in demo.printed or not demo.running, seconds=90)
    dashboard = re.search(r"^Dashboard +(\S+)/ops  key (\S+)$", demo.printed, re.MULTILINE)
    simulator = re.search(r"a simulated Apiframe on (\S+),", demo.printed)
    assert dashboard is not None, demo.said
    assert simulator is not None
    with signed_in(dashboard[1], dashboard[2]) as operator:
        before = workers_of(demo)
        for what, fields in (
            ("drop", {"turn": "on"}),
            ("double", {"turn": "on"}),
            ("storm", {"size": "50"}),
            ("kill", {}),
        ):
            assert press(operator, what, **fields).status_code == 303
        killed = int(figure(operator, "Last kill", r"process (\d+)"))
        assert killed in before
        eventually(lambda: len(workers_of(demo)) == 2 and killed not in workers_of(demo))
        eventually(lambda: figure(operator, "Completed") == "51", seconds=120)

        assert {name: figure(operator, name) for name in ("Submitted", "Lost", "Paid twice", "Worker restarts")} == {
            "Submitted": "51",
            "Lost": "0",
            "Paid twice": "0",
            "Worker restarts": "1",
        }
        books = httpx.get(f"{simulator[1]}/sim/books?part=jobs", trust_env=False, timeout=60).json()["jobs"]
        assert len({job["idempotency_key"] for job in books}) == len(books) == 51
        assert {job["status"] for job in books} == {"COMPLETED"}
        assert min(int(figure(operator, f"Webhooks {name}")) for name in ("dropped", "doubled")) > 0

    demo.kill_all()
    assert demo.leaves_nothing()
    assert postgres_is_gone(folder / ".framehook")


@contextmanager
def signed_in(url: str, key: str) -> Iterator[httpx.Client]:
    """An operator's client."""
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as operator:
        assert operator.post("/ops/sign-in", data={"key": key}).status_code == 303
        yield operator


def press(operator: httpx.Client, what: str, **fields: str) -> httpx.Response:
    """Press one of the buttons that break something."""
    token = re.search(r'name="csrf" value="([^"]+)"', operator.get("/ops/demo").text)
    assert token is not None
    return operator.post(f"/ops/demo/{what}", data={"csrf": token[1], **fields})


def figure(operator: httpx.Client, name: str, pattern: str = r"([\d,]+)<") -> str:
    """What the panel says under a name."""
    rest = operator.get("/ops/demo").text.partition(f'class="label">{name}</div>')[2]
    found = re.search(pattern, rest)
    assert found is not None, rest[:200]
    return found[1]


def workers_of(demo: Program) -> set[int]:
    """The worker processes that a demo has now."""
    return {process.pid for process in demo.survivors() if "worker" in command_of(process).split()}
