"""Start and stop the service's processes: what must hold before they start, and no process left behind after."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Final
from urllib.parse import urlsplit

import structlog
import uvicorn
from sqlalchemy import text
from uvicorn.supervisors import Multiprocess

from app import embedded, logs, migrate, workers
from app.config import Settings, environment_name
from app.context import open_context, open_database
from app.db import OUTAGES, is_outage
from app.errors import StartupError
from app.main import create_app

log = structlog.get_logger()

SHUTDOWN_SECONDS: Final = 20
"""How long requests in flight may take after the signal to stop."""


def configure_logs(settings: Settings) -> None:
    """Have every line go to standard error in one format."""
    logs.configure(settings)


def serve(settings: Settings, *, workers: int, migrate_first: bool) -> None:
    """Serve until SIGTERM or Ctrl-C; raise StartupError, before anything listens, when it cannot work."""
    with ExitStack() as stack:
        _prepare(stack, settings, migrate_first=migrate_first)
        listening = stack.enter_context(listen(settings.host, settings.port))
        host, port = listening.getsockname()[:2]
        log.info("service.listening", url=f"http://{host}:{port}", workers=workers)
        with _signals_end_quietly():
            if workers == 1:
                uvicorn.Server(_config(create_app(settings))).run(sockets=[listening])
            else:
                _hand_down(settings)
                config = _config("app.main:create_app", factory=True, workers=workers)
                Multiprocess(config, sockets=[listening]).run()


def serve_here(
    settings: Settings, listening: socket.socket, *, meanwhile: Callable[[Callable[[], None]], None]
) -> None:
    """Serve on a socket in this process while `meanwhile` runs in a thread; what that is given stops the service."""
    with ExitStack() as stack:
        _prepare(stack, settings, migrate_first=False)
        server = uvicorn.Server(_config(create_app(settings)))

        def stop() -> None:
            server.should_exit = True

        with _signals_end_quietly():
            threading.Thread(target=meanwhile, args=(stop,), daemon=True).start()
            server.run(sockets=[listening])


def work(settings: Settings) -> None:
    """Run the background loops until SIGTERM or Ctrl-C."""
    with ExitStack() as stack:
        _prepare(stack, settings, migrate_first=False)
        asyncio.run(_work(settings))


async def _work(settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with open_context(settings) as ctx, workers.running(ctx):
        log.info("worker.started", upstream=ctx.account)
        await stop.wait()


def _prepare(stack: ExitStack, settings: Settings, *, migrate_first: bool) -> None:
    """Check what can be checked before anything starts; hold an embedded database until the last process is gone."""
    if settings.apiframe_api_key is None and not settings.upstream_is_local:
        raise StartupError(
            f"APIFRAME_API_KEY is not set, and {settings.apiframe_base_url} is not a simulator on this machine"
        )
    if settings.database_url is None:
        stack.callback(embedded.start(settings.data_dir).close)
    asyncio.run(_check_database(settings, migrate_first=migrate_first or settings.database_url is None))


async def _check_database(settings: Settings, *, migrate_first: bool) -> None:
    try:
        async with open_database(settings) as database:
            async with database.reading() as connection:
                await connection.execute(text("SELECT 1"))
            if migrate_first:
                await migrate.upgrade(database)
    except OUTAGES as error:
        if not is_outage(error):
            raise
        raise StartupError(f"cannot use the database at {_address(settings)}: {_reason(error)}") from None


def explain_outage(error: BaseException) -> str:
    """One line for a database that went away under a command."""
    return f"the database cannot be used: {_reason(error)}"


def listen(host: str, port: int) -> socket.socket:
    """Bind an address; raise StartupError when it is taken or not ours."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise StartupError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None


def _config(app: object, *, factory: bool = False, workers: int = 1) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        factory=factory,
        workers=workers,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )


def _hand_down(settings: Settings) -> None:
    """Worker processes read their settings anew, so what the command line said goes into their environment."""
    os.environ[environment_name("loops")] = str(settings.loops)


def _signals_end_quietly() -> ExitStack:
    """uvicorn raises the signal again after its shutdown, when the work of the signal is done: let it end there."""
    stack = ExitStack()
    previous = signal.signal(signal.SIGTERM, lambda *_: None)
    stack.callback(signal.signal, signal.SIGTERM, previous)
    stack.enter_context(suppress(KeyboardInterrupt))
    return stack


def _address(settings: Settings) -> str:
    if settings.database_url is None:
        return str(settings.data_dir)
    parts = urlsplit(settings.database_url)
    return f"{parts.hostname or 'localhost'}:{parts.port or 5432}{parts.path}"


def _reason(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    return str(cause).splitlines()[0] if str(cause) else type(cause).__name__
