"""Jobs from a terminal: the same commands on a running service from anywhere, and on the database without one."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.simulator.server import RunningSimulator
from tests.processes.harness import (
    KEY,
    REPOSITORY,
    Ended,
    Program,
    client,
    counters,
    eventually,
    free_port,
    in_front_of,
    make_key,
    python,
    query,
    read,
    ready,
    submit,
    upstream_jobs,
)

Launch = Callable[..., Program]
Run = Callable[..., list[Ended]]

MODEL = "--set model=flux-1.1-pro-ultra --set prompt='a fox'"
GENERATE = f"jobs submit images/generate {MODEL}"


def remotely(url: str, key: str = KEY) -> dict[str, str]:
    """What a laptop knows of the service."""
    return {"FRAMEHOOK_URL": url, "FRAMEHOOK_KEY": key}


def ids(ended: Ended) -> list[str]:
    """The jobs that were printed as JSON."""
    return [job["id"] for job in json.loads(ended.printed)]


def test_a_job_is_submitted_waited_for_and_fetched_from_anywhere_and_on_the_database(
    launch: Launch, run: Run, simulator: RunningSimulator, database_url: str, folder: Path
) -> None:
    settings = in_front_of(simulator, database_url)
    url = ready(launch("serve", **settings))
    (folder / "body.json").write_text('{"model": "flux-1.1-pro-ultra", "prompt": "overwritten"}')
    fetch = "jobs submit images/generate body.json --set 'prompt=a fox' --set metadata.order=7 --download there"

    there, here = run(
        (f"{fetch} --idempotency-key 1", remotely(url)),
        (f"{GENERATE} --wait-seconds 30 --json", settings | {"key": KEY}),
    )
    simulator.tell("faults", next=["fail"])
    again, failed = run((f"{fetch} --idempotency-key 1", remotely(url)), (f"{GENERATE} --wait", remotely(url)))
    simulator.tell("config", hold=True)
    (late,) = run((f"{GENERATE} --wait-seconds 1", remotely(url)))
    eventually(lambda: counters(simulator)["submissions"] >= 4)

    assert [(one.exit_code, one.said) for one in (there, here, again)] == [(0, "")] * 3
    job_id, saved = there.printed.splitlines()
    same_id, saved_again = again.printed.splitlines()
    assert (same_id, saved_again != saved) == (job_id, True)
    made = json.loads(here.printed)
    assert (made["status"], made["input"]["prompt"], len(made["result"]["images"])) == ("COMPLETED", "a fox", 1)
    with client(url) as caller:
        job = read(caller, job_id)
        (picture,) = job["result"]["images"]
        assert (folder / saved).read_bytes() == (folder / saved_again).read_bytes() == caller.get(picture).content
    assert (job["input"]["prompt"], job["metadata"]) == ("a fox", {"order": 7})
    assert (failed.exit_code, failed.said) == (
        1,
        f"framehook: {failed.printed.strip()} is FAILED: The model could not generate this: simulated failure\n",
    )
    assert (late.exit_code, "not over after 1 s" in late.said) == (1, True)
    assert counters(simulator)["submissions"] == 4


def test_jobs_are_listed_shown_and_waited_for_alike_from_anywhere_and_without_a_service(
    launch: Launch, run: Run, simulator: RunningSimulator, database_url: str, folder: Path
) -> None:
    settings = in_front_of(simulator, database_url, port=free_port())
    service = launch("serve", **settings)
    url = ready(service)
    team = make_key(database_url, "[/]designers", "submit", "read")
    with client(url) as admin, client(url, team) as designer:
        simulator.tell("faults", next=["fail"])
        lost = submit(admin, "lost at sea")
        eventually(lambda: upstream_jobs(simulator))  # the first that comes is the one that fails
        made = [submit(designer, f"picture {number}") for number in (1, 2)]
        for job_id in (lost, *made):
            read(admin, job_id, wait=20)
        eventually(lambda: all(read(admin, job_id)["archiveStatus"] == "stored" for job_id in made))

    commands = [
        "jobs list --json",
        "jobs list --status FAILED,CANCELLED --since 1h --json",
        "jobs list --team '[/]designers' --q picture --limit 1 --json",
        f"jobs show {made[0]} --json",
        f"jobs watch {made[0]}",
        f"jobs watch {lost}",
        f"jobs watch {lost} --json",
        "jobs export --format jsonl",
        "jobs export --status COMPLETED",
    ]
    there = run(*((command, remotely(url)) for command in commands))
    (folder / "jobs.csv").write_text("as it was before")
    own, table, saved, refused = run(
        ("jobs list --json", remotely(url, team)),
        ("jobs list", remotely(url)),
        ("jobs export --status COMPLETED -o jobs.csv", remotely(url)),
        ("jobs export --status FLOWN -o none.csv", remotely(url)),
    )
    service.stop()
    here = run(*((command, settings) for command in commands))

    everything, failed, one, shown, watched, watched_lost, events, lines, sheet = there
    assert ids(everything) == [*reversed(made), lost]
    assert (ids(failed), ids(one), ids(own)) == ([lost], [made[1]], [*reversed(made)])
    assert json.loads(shown.printed)["job"]["team"] == "[/]designers"
    assert [line.split()[0] for line in table.printed.splitlines()] == ["id", *reversed(made), lost]
    (picture,) = json.loads(shown.printed)["job"]["result"]["images"]
    assert (watched.exit_code, watched.printed) == (0, f"{picture}\n")
    assert (watched_lost.exit_code, watched_lost.printed) == (1, "")
    assert watched_lost.said.startswith(f"framehook: {lost} is FAILED: ")
    types = [json.loads(line)["type"] for line in events.printed.splitlines()]
    assert (types[0], types[-1]) == ("job.queued", "job.failed")
    assert [json.loads(line)["id"] for line in lines.printed.splitlines()] == ids(everything)
    assert [row["id"] for row in csv.DictReader(io.StringIO(sheet.printed))] == [*reversed(made)]
    assert (saved.exit_code, saved.printed, saved.said) == (0, "", "")
    assert (folder / "jobs.csv").read_text() == sheet.printed
    assert (refused.exit_code, refused.said.startswith("framehook: Validation failed; status: ")) == (1, True)
    assert sorted(path.name for path in folder.glob("*csv*")) == ["jobs.csv"]
    assert [(one.exit_code, one.said) for one in here] == [(one.exit_code, one.said) for one in there]
    assert [one.printed for one in here] == [one.printed for one in there]


def test_many_jobs_are_cancelled_retried_and_refreshed_and_what_failed_is_named(
    launch: Launch, run: Run, simulator: RunningSimulator, database_url: str
) -> None:
    settings = in_front_of(simulator, database_url)
    url = ready(launch("serve", **settings))
    run(("pause", settings))
    with client(url) as caller:
        first, second, *others = [submit(caller, f"picture {number}") for number in range(12)]

        (some,) = run((f"jobs cancel {first} {second} {first} nonsense", remotely(url)))
        unsure, neither, both = run(
            ("jobs cancel --all", settings),
            ("jobs retry", settings),
            (f"jobs retry {first} --status FAILED", settings),
        )
        (all_left,) = run(("jobs cancel --all --yes --json", settings))
        again, retried = run(
            (f"jobs cancel {first}", settings), ("jobs retry --all --status CANCELLED --yes --json", remotely(url))
        )
        (repeated,) = run(("jobs retry --all --status CANCELLED --yes --json", settings))
        run(("resume", settings))
        new = [each["jobId"] for each in json.loads(retried.printed)["done"]]
        assert {read(caller, job_id, wait=20)["status"] for job_id in new} == {"COMPLETED"}
        (refreshed,) = run((f"jobs refresh {' '.join(new)}", settings))

    assert (some.exit_code, sorted(some.printed.splitlines())) == (
        1,
        sorted(f"{job_id}  CANCELLED" for job_id in (first, second)),
    )
    assert some.said == "framehook: nonsense: Job not found\n2 cancelled, 1 failed.\n"
    assert "would cancel 10 jobs" in unsure.said
    assert [(one.exit_code, one.said.count("\n")) for one in (unsure, neither, both)] == [(1, 1)] * 3
    assert {each["id"] for each in json.loads(all_left.printed)["done"]} == set(others)
    assert (again.exit_code, again.said) == (1, f"framehook: {first}: The job is over: CANCELLED\n")
    assert {each["id"] for each in json.loads(retried.printed)["done"]} == {first, second, *others}
    by_job = {each["id"]: each["jobId"] for each in json.loads(retried.printed)["done"]}
    assert {each["id"]: each["jobId"] for each in json.loads(repeated.printed)["done"]} == by_job
    assert len(set(new)) == counters(simulator)["submissions"] == 12
    assert (refreshed.exit_code, set(refreshed.printed.splitlines())) == (0, {f"{each}  COMPLETED" for each in new})
    assert query(database_url, "SELECT DISTINCT source FROM steps WHERE data ->> 'action' = 'refresh'") == ["cli"]


def test_all_that_happens_is_followed_until_ctrl_c_on_a_terminal_as_a_table(
    launch: Launch, simulator: RunningSimulator, database_url: str
) -> None:
    settings = in_front_of(simulator, database_url)
    url = ready(launch("serve", **settings))
    watching = [launch("jobs", "watch", **remotely(url)), launch("jobs", "watch", "--json", **settings)]
    with Terminal("jobs", "watch", **remotely(url)) as terminal:
        eventually(
            lambda: all("Listening to " in watcher.said for watcher in watching) and "Listening" in terminal.said
        )
        with client(url) as caller:
            job_id = submit(caller)
            assert read(caller, job_id, wait=20)["status"] == "COMPLETED"
        # It is the last: one that comes between the ends of the two would be told to one of them only.
        eventually(lambda: all("job.archived" in watcher.printed for watcher in watching))
        eventually(lambda: re.search(rf"{job_id} +COMPLETED +a lighthouse in a storm", terminal.text))
        assert terminal.ctrl_c() == 130
    for watcher in watching:
        watcher.ctrl_c()
        assert (watcher.wait(), "Traceback" in watcher.said) == (130, False)
    lines, events = (watcher.printed.splitlines() for watcher in watching)
    told = [json.loads(line) for line in events]
    assert [line.split()[:3] for line in lines] == [[one["timestamp"], one["type"], one["data"]["id"]] for one in told]


def test_on_a_terminal_a_bar_tells_how_far_a_job_is(
    launch: Launch, simulate: Callable[..., RunningSimulator], database_url: str
) -> None:
    simulator = simulate(hold=True)
    url = ready(launch("serve", **in_front_of(simulator, database_url)))
    with Terminal(*GENERATE.replace("'a fox'", "fox").split(), "--wait", **remotely(url)) as terminal:
        eventually(lambda: "QUEUED" in terminal.text)
        (job,) = eventually(lambda: upstream_jobs(simulator))
        simulator.tell(f"jobs/{job['job_id']}/progress", progress=40)
        eventually(lambda: re.search(r"PROCESSING .*40 %", terminal.text, re.DOTALL))
        simulator.tell(f"jobs/{job['job_id']}/finish")
        assert terminal.wait() == 0
    assert re.search(r"COMPLETED .*100 %", terminal.text, re.DOTALL)
    last = terminal.text.rstrip().splitlines()[-1]
    assert last.endswith("/0.jpg")


def test_what_cannot_be_done_with_jobs_is_one_line(
    run: Run, simulator: RunningSimulator, empty_database_url: str
) -> None:
    nowhere = remotely(f"http://127.0.0.1:{free_port()}")
    empty = {"DATABASE_URL": empty_database_url, "APIFRAME_BASE_URL": simulator.url}
    away = {"DATABASE_URL": f"postgresql://someone@127.0.0.1:{free_port()}/framehook"}
    real = empty | {"APIFRAME_BASE_URL": "https://api.apiframe.ai", "key": KEY}
    wanted = {
        "jobs list": (nowhere, r"http://127\.0\.0\.1:\d+: .*connect.*"),
        "jobs watch x": (nowhere, r"http://127\.0\.0\.1:\d+: .*connect.*"),
        "jobs show x": (nowhere | {"FRAMEHOOK_KEY": ""}, "a key is needed: .*"),
        "jobs list --limit 5": (nowhere | {"FRAMEHOOK_URL": "here"}, "--url must be a URL .*"),
        "jobs list --overdue": (empty, "the database cannot be used: it lacks .*: framehook migrate"),
        "jobs list --json": (away, "the database cannot be used: .*"),
        "jobs list --since tomorrow": (nowhere, "--since must be a time .*"),
        GENERATE: (empty, "a job belongs to a key: .*"),
        f"{GENERATE} --set n=1": (real, "APIFRAME_API_KEY is not set, .*"),
        "jobs submit images/fly": (nowhere, "there is no operation images/fly; .*"),
        "jobs submit images/generate nothing.json": (nowhere, "nothing.json cannot be read: .*"),
        "jobs submit images/generate -": (nowhere, "standard input is not valid JSON"),
        "jobs export --format xml": (nowhere, "--format must be csv or jsonl, not xml"),
    }
    ended = run(*((command, environment) for command, (environment, _) in wanted.items()))
    for one, (command, (_, line)) in zip(ended, wanted.items(), strict=True):
        assert (one.exit_code, one.printed) == (1, ""), command
        assert re.fullmatch(f"framehook: {line}\n", one.said), (command, one.said)


class Terminal:
    """A command on a terminal of 100 columns, with all that it shows there."""

    def __init__(self, *arguments: str, **settings: Any) -> None:
        self._near, far = pty.openpty()
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "COLUMNS": "100", "TERM": "xterm"}
        self._process = subprocess.Popen(
            python("-m", "app", *arguments),
            stdin=far,
            stdout=far,
            stderr=far,
            env=environment | settings,
            start_new_session=True,
        )
        os.close(far)
        os.set_blocking(self._near, False)
        self._seen = b""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._near)
        self._near = -1  # the number may be anybody's now

    @property
    def said(self) -> str:
        """All that came so far, as it came."""
        try:
            while part := os.read(self._near, 65536):
                self._seen += part
        except (BlockingIOError, OSError):  # nothing now, or nobody there any more
            pass
        return self._seen.decode(errors="replace")

    @property
    def text(self) -> str:
        """The same without colours and movements."""
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.said)

    def wait(self) -> int:
        """Its exit code. It is read meanwhile: a terminal that nobody reads holds up who writes to it."""
        eventually(lambda: (self.said, self._process.poll() is not None)[1])
        assert self.said  # what came since
        return self._process.wait(1)

    def ctrl_c(self) -> int:
        """Interrupt it, and return its exit code."""
        self._process.send_signal(signal.SIGINT)
        return self.wait()
