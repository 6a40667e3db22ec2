"""Nothing secret is written, whoever runs the application and whatever goes wrong."""

from __future__ import annotations

from collections.abc import Callable

from app.simulator.server import RunningSimulator
from tests.harness import SIMULATOR_KEY
from tests.processes.harness import (
    FLUX,
    KEY,
    SUBMIT,
    Program,
    client,
    eventually,
    python,
    query,
    reachable,
    read,
    ready,
    status_of,
    submit,
    upstream_jobs,
)

SECRET = "a-secret-that-signs-webhook-urls"


def test_uvicorn_runs_the_application_and_its_access_log_keeps_the_tokens(
    start: Callable[..., Program], simulator: RunningSimulator, database_url: str
) -> None:
    settings = reachable(simulator, database_url, secret_key=SECRET, APIFRAME_API_KEY=SIMULATOR_KEY)
    url = settings["PUBLIC_BASE_URL"]
    command = python("-m", "uvicorn", "app.main:create_app", "--factory", "--port", str(settings["port"]))
    service = start([*command, "--log-level", "debug"], settings)
    eventually(lambda: status_of(f"{url}/readyz") == 200)
    with client(url) as caller:
        job = submit(caller)
        assert read(caller, job, wait=15)["status"] == "COMPLETED"
        simulator.tell(f"jobs/{job}/webhook", signature="none")
        simulator.tell(f"jobs/{job}/webhook", signature="wrong")
        (accepted,) = upstream_jobs(simulator)
        address = str(accepted["webhook_url"])
        caller.get(address)
        caller.post(f"{address}x?token={address.rpartition('/')[2]}")
        ticket = str(caller.post("/v1/events/tickets").json()["ticket"])
        stream = f"/v1/jobs/{job}/events/stream"
        assert status_of(f"{url}{stream}?ticket={ticket}&types=job.*") == 204
        assert status_of(f"{url}{stream}?types=x&ticket={ticket}") == 400
        assert status_of(f"{url}/v1/events?ticket={ticket}") == 401
        (file,) = eventually(lambda: read(caller, job)["files"])
        link = str(caller.post(f"/v1/files/{file['id']}/links").json()["url"])
        signature = link.rpartition("=")[2]
        for address_of_file in (link, f"{link}&download=true", f"{file['url']}?signature={signature}&expires=1"):
            status_of(address_of_file)
    assert service.stop() in (0, -15)

    written = service.said + service.printed
    file_path = link.removeprefix(url).rpartition("&")[0]
    assert f'"POST {SUBMIT} HTTP/1.1" 202' in written
    assert '"POST /webhooks/apiframe/{job_id}/{token} HTTP/1.1" 200' in written
    assert '"GET /webhooks/apiframe/{job_id}/{token} HTTP/1.1" 405' in written
    assert f'"GET {stream}?ticket={{ticket}}&types=job.* HTTP/1.1" 204' in written
    assert f'"GET {stream}?types=x&ticket={{ticket}} HTTP/1.1" 400' in written
    assert f'"GET {file_path}&signature={{signature}} HTTP/1.1" 200' in written
    assert f'"GET {file_path}&signature={{signature}}&download=true HTTP/1.1" 200' in written
    for secret in (ticket, signature, address.rpartition("/")[2], KEY, SIMULATOR_KEY, SECRET):
        assert secret not in written


def test_a_statement_that_fails_is_logged_without_what_was_sent_in_it(
    launch: Callable[..., Program], simulator: RunningSimulator, database_url: str
) -> None:
    query(
        database_url,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$",
        "CREATE TRIGGER refuse BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    service = launch("serve", **reachable(simulator, database_url))
    with client(ready(service)) as caller:
        answer = caller.post(SUBMIT, json=FLUX | {"prompt": "what a caller keeps to itself"})
    assert (answer.status_code, answer.json()) == (500, {"error": "Internal error"})
    assert "request.failed" in service.said
    assert "what a caller keeps to itself" not in service.said
    assert "/webhooks/apiframe/" not in service.said
