"""Start and stop the service's processes: what must hold before they start, and no process left behind after."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType
from typing import Final
from urllib.parse import urlsplit

import structlog
import uvicorn
from fastapi import FastAPI
from sqlalchemy import text
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from app import embedded, logs, migrate, sandbox, workers
from app.config import Settings, environment_name
from app.context import open_context, open_database
from app.dashboard.breaking import Demo
from app.db import OUTAGES, sqlstate
from app.errors import StartupError
from app.joining import JoiningProtocol
from app.main import create_app

log = structlog.get_logger()

SHUTDOWN_SECONDS: Final = 20
"""How long requests in flight may take after the signal to stop."""

SILENT_SECONDS: Final = 60
"""A worker process that does not answer its supervisor for so long is replaced. One that merely stands still for seconds,
as machines let processes do, keeps its connections and what it has counted."""

IDLE_SECONDS: Final = 75
"""A connection is kept for longer than clients keep theirs (httpx 5 s, nginx 60 s): a POST that meets a server that just
closed has no answer, and its sender does not know what became of it."""

GARBAGE_AFTER: Final = (20_000, 20, 20)
"""Python looks for cycles of garbage after so many more objects (`gc.set_threshold`). Requests leave next to none, and its
own 700 have it look through the objects of a whole batch again and again."""

_NOT_MIGRATED: Final = ("42P01", "3F000")
"""SQLSTATEs of a table or schema that is not there."""


def configure_logs(settings: Settings) -> None:
    """Have every line go to standard error in one format."""
    logs.configure(settings)


def heed_signals() -> None:
    """Have SIGTERM, and a terminal that is closed, end a command as Ctrl-C does: what it started is stopped first.

    Their own way would leave an embedded PostgreSQL behind. A signal that is ignored, as under `nohup`, stays so.
    """

    def hang_up(_number: int, _frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGTERM)  # uvicorn may be handling that by now

    for number, handler in ((signal.SIGTERM, signal.default_int_handler), (signal.SIGHUP, hang_up)):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, handler)


def serve(settings: Settings, *, workers: int, migrate_first: bool) -> None:
    """Serve until SIGTERM or Ctrl-C; raise StartupError, before anything listens, when it cannot work."""
    check_upstream_key(settings)
    with ExitStack() as stack:
        # A port that is taken is found before a database is started or migrated for nothing.
        listening = stack.enter_context(listen(settings.host, settings.port))
        settings = settings.model_copy(update={"port": listening.getsockname()[1]})  # with 0 the system chose it
        _hold_database(stack, settings, migrate_first=migrate_first)
        log.info("service.listening", url=_url(listening), workers=workers)
        # uvicorn raises the signal anew when all is shut down, when it has done its work.
        with suppress(KeyboardInterrupt):
            if workers == 1:
                server = uvicorn.Server(server_config(create_app(settings)))
                settle_memory()
                server.run(sockets=[listening])
            else:
                _supervise(settings, listening, workers)


def _supervise(settings: Settings, listening: socket.socket, workers: int) -> None:
    # Worker processes read their settings anew, so what the command line said goes into their environment.
    for field in ("loops", "host", "port"):
        os.environ[environment_name(field)] = str(getattr(settings, field))
    supervisor = Multiprocess(
        server_config("app.serving:worker_app", factory=True, workers=workers), sockets=[listening]
    )
    supervisor.run()
    if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
        raise StartupError("a worker process cannot start, and the log says why")


def worker_app() -> FastAPI:
    """The application in one of several processes, which ends as by SIGTERM when the one that started it is gone.

    Otherwise it would keep the port after a kill of that one, and the next start would not get it.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        signal.raise_signal(signal.SIGTERM)

    threading.Thread(target=follow, name="follow-parent", daemon=True).start()
    app = create_app()
    settle_memory()
    return app


def serve_here(
    settings: Settings,
    listening: socket.socket,
    *,
    meanwhile: Callable[[Callable[[], None]], None],
    demo: Demo | None = None,
) -> None:
    """Serve on a socket in this process while `meanwhile` runs in a thread; what that is given stops the service.

    Returns when that was called; a signal comes out as KeyboardInterrupt, in both cases when all is shut down.
    """
    with ExitStack() as stack:
        _hold_database(stack, settings, migrate_first=False)
        server = uvicorn.Server(server_config(create_app(settings, demo=demo)))

        def stop() -> None:
            server.should_exit = True

        threading.Thread(target=meanwhile, args=(stop,), daemon=True).start()
        server.run(sockets=[listening])


def surroundings(chosen: Mapping[str, str]) -> dict[str, str]:
    """An environment for processes of ours: this one's without any setting, and these; they find the code wherever it is."""
    settings = {environment_name(field) for field in Settings.model_fields}
    kept = {name: value for name, value in os.environ.items() if name.upper() not in settings}
    here = str(Path(embedded.__file__).parents[1])
    paths = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**kept, **chosen, "PYTHONPATH": os.pathsep.join(paths)}


def work(settings: Settings, *, with_stdin: bool = False) -> None:
    """Run the background loops until SIGTERM or Ctrl-C, or `with_stdin` until standard input ends."""
    check_upstream_key(settings)
    if with_stdin:
        threading.Thread(target=_follow_stdin, name="follow-stdin", daemon=True).start()
    with ExitStack() as stack:
        _hold_database(stack, settings, migrate_first=False)
        asyncio.run(_work(settings))


def _follow_stdin() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


async def _work(settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with open_context(settings) as ctx:
        sandbox.attach(ctx)
        async with workers.running(ctx, role="worker"):
            log.info("worker.started", upstream=ctx.account)
            await stop.wait()


def check_upstream_key(settings: Settings) -> None:
    """Raise StartupError where nothing could be sent upstream in anybody's name."""
    if settings.apiframe_api_key is None and not settings.upstream_is_local:
        raise StartupError(
            f"APIFRAME_API_KEY is not set, and {settings.apiframe_base_url} is not a simulator on this machine"
        )


def _hold_database(stack: ExitStack, settings: Settings, *, migrate_first: bool) -> None:
    """Check that the database can be used; hold an embedded one until the last process is gone."""
    if settings.database_url is None:
        stack.callback(embedded.start(settings.data_dir).close)
    asyncio.run(_check_database(settings, migrate_first=migrate_first or settings.database_url is None))


async def _check_database(settings: Settings, *, migrate_first: bool) -> None:
    async with open_database(settings) as database:
        try:
            async with database.reading() as connection:
                await connection.execute(text("SELECT 1"))
        except (*OUTAGES, ValueError) as error:  # ValueError is asyncpg's word for an address that cannot be read
            raise StartupError(f"cannot use the database at {_address(settings)}: {_reason(error)}") from None
        if migrate_first:
            await migrate.upgrade(database)


def explain_outage(error: BaseException) -> str:
    """One line for a database that went away under a command."""
    return f"the database cannot be used: {_reason(error)}"


def listen(host: str, port: int) -> socket.socket:
    """Bind an address; raise StartupError when it is taken or not ours."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        # asyncio's and socket's own words repeat the address in brackets.
        reason = str(error.strerror or error).partition(" (")[0]
        raise StartupError(f"cannot listen on {host}:{port}: {reason}") from None


def settle_memory() -> None:
    """Have the garbage collector leave alone what is there from the start, and come less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_AFTER)


def server_config(app: object, *, factory: bool = False, workers: int = 1) -> uvicorn.Config:
    """How the service is served; an application, or with `factory` the name of what makes one in each worker."""
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        factory=factory,
        workers=workers,
        http=JoiningProtocol,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        timeout_worker_healthcheck=SILENT_SECONDS,
    )


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _address(settings: Settings) -> str:
    if settings.database_url is None:
        return str(settings.data_dir)
    parts = urlsplit(settings.database_url)
    return (parts.netloc.rpartition("@")[2] or "localhost") + parts.path


def _reason(error: BaseException) -> str:
    if sqlstate(error) in _NOT_MIGRATED:
        return "it lacks this version's tables: framehook migrate"
    cause = getattr(error, "orig", None) or error
    return str(cause).splitlines()[0] if str(cause) else type(cause).__name__
