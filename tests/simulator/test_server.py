"""Running it: a thread that starts and stops at once, a process that ends on a signal, and a port that is taken."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest

from app.errors import StartupError
from app.simulator.api import create_app
from app.simulator.config import SimulatorConfig
from app.simulator.faults import FaultPlan
from app.simulator.server import RunningSimulator, run
from app.simulator.world import World
from tests.processes.harness import free_port
from tests.simulator.walks import KEY, SUBMIT, counters, eventually, flux

ROOT = Path(__file__).resolve().parents[2]


def test_stopping_cuts_hanging_answers() -> None:
    faults = FaultPlan(accept_then_hang=1)
    with RunningSimulator(SimulatorConfig(faults=faults)) as simulator:
        cut = threading.Event()

        def send() -> None:
            try:
                headers = {"X-API-Key": KEY}
                httpx.post(f"{simulator.url}{SUBMIT}", json=flux(), headers=headers, trust_env=False, timeout=60)
            except httpx.TransportError:
                cut.set()

        thread = threading.Thread(target=send)
        thread.start()
        eventually(lambda: counters(simulator)["hanging_now"] == 1)
        simulator.stop()
        assert not simulator._thread.is_alive()
        thread.join(60)
        assert cut.is_set()
    with pytest.raises(httpx.ConnectError):
        httpx.get(simulator.url, trust_env=False, timeout=60)


def test_a_caller_that_is_gone_in_the_middle_of_its_body_is_not_taken_for_a_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    head = f"POST {SUBMIT} HTTP/1.1\r\nHost: sim\r\nX-API-Key: {KEY}\r\nContent-Length: 100\r\n\r\n"
    with RunningSimulator() as simulator:
        with socket.create_connection((simulator.host, simulator.port)) as caller:
            caller.sendall(f"{head}{{".encode())
            eventually(lambda: simulator.world.books.requests[f"POST {SUBMIT}"] == 1)
        headers = {"X-API-Key": KEY}
        with httpx.Client(base_url=simulator.url, headers=headers, trust_env=False, timeout=60) as other:
            assert other.post(SUBMIT, json=flux()).status_code == 202
        told = list(caplog.messages)  # a stop that takes long is told too
    assert told == []


def test_a_port_that_is_taken_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartupError, match=rf"cannot listen on 127.0.0.1:{port}: .+"):
            run(SimulatorConfig(), "127.0.0.1", port)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_ends_well_on_a_signal(number: signal.Signals) -> None:
    code = "from app.simulator.server import run; run(host='127.0.0.1', port={port})"
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", code.format(port=port)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )

    def answers() -> bool:
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("GET", "/v2/models")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    try:
        eventually(answers)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert output == b""


async def test_the_app_serves_without_a_server_too() -> None:
    world = World(SimulatorConfig(hold=True))
    transport = httpx.ASGITransport(create_app(world))
    async with httpx.AsyncClient(transport=transport, base_url="http://sim", headers={"X-API-Key": KEY}) as client:
        job_id = (await client.post(SUBMIT, json=flux())).json()["jobId"]
        finished = await client.post(f"/sim/jobs/{job_id}/finish", json={})
        job = (await client.get(f"/v2/jobs/{job_id}")).json()
    assert finished.json()["status"] == job["status"] == "COMPLETED"
    assert job["result"]["images"][0].startswith("http://sim/files/")
    assert list(world.jobs) == [job_id]
