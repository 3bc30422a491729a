"""Owns the servers a machine without PostgreSQL or Redis gets by on: where the environment names none, ours start.

All they have and know lies in the state folder. Every process that called `ensure()` holds a shared lock there, and
the one that leaves last stops the servers: a finished `manage.py` command never takes them from under a running demo.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import environ

from config.embedded import EmbeddedPostgres, EmbeddedRedis, ServicesError
from config.processes import serves, write_privately

__all__ = ["ServicesError", "Started", "ensure", "recorded_urls", "state_folder", "stop"]

PROJECT = Path(__file__).resolve().parent.parent
NAMES = ("DATABASE_URL", "REDIS_URL")


@dataclass(frozen=True)
class Started:
    """What `ensure()` hands out and `stop()` takes back: None stands for a server the environment names."""

    postgres: EmbeddedPostgres | None = None
    redis: EmbeddedRedis | None = None
    # The lock that says we are using them.
    use: IO[str] | None = None


class Urls(NamedTuple):
    database: str
    redis: str


def state_folder() -> Path:
    """Where everything local lives: data, logs, the generated key. It need not exist."""
    return PROJECT / os.environ.get("PERDURE_STATE", ".perdure")


def ensure(*, fast: bool = False) -> Started:
    """Have both servers running and named in `os.environ`, for this process and its children.

    Whoever calls this calls `stop()` with the answer before it exits. `fast` (for tests) trades PostgreSQL's
    durability for speed. Raises ServicesError.
    """
    environ.Env.read_env(str(PROJECT / ".env"))
    absent = [name for name in NAMES if not os.environ.get(name)]
    folder = state_folder()
    # Beat keeps its schedule there whoever's the servers are; the others can do without.
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not absent:
        return Started()
    with _lock(folder):
        started = Started(
            EmbeddedPostgres(folder / "postgres", fast=fast) if "DATABASE_URL" in absent else None,
            EmbeddedRedis(folder / "redis") if "REDIS_URL" in absent else None,
            _use(folder),
        )
        try:
            _start(started, folder)
        except BaseException:
            _leave(started, folder)
            raise
    return started


def stop(started: Started) -> None:
    """Stop the servers, unless another process still uses them. May run twice."""
    folder = state_folder()
    if started.use is not None and not started.use.closed:
        with _lock(folder):
            _leave(started, folder)


def recorded_urls() -> Urls | None:
    """Where the embedded servers that run now are; an address that leads nowhere for the one that is not ours."""
    folder = state_folder()
    found = {}
    with suppress(OSError, ValueError, KeyError, TypeError):
        for name, entry in json.loads(_record(folder).read_text()).items():
            if serves(entry["pid"], folder.resolve()):
                found[name] = str(entry["url"])
    if not found:
        return None
    return Urls(
        found.get("DATABASE_URL", "postgresql://127.0.0.1:1/none"), found.get("REDIS_URL", "redis://127.0.0.1:1")
    )


def _start(started: Started, folder: Path) -> None:
    record = {}
    for name, server in (("DATABASE_URL", started.postgres), ("REDIS_URL", started.redis)):
        if server is not None:
            server.start()
            os.environ[name] = server.url
            record[name] = {"url": server.url, "pid": server.pid}
    with suppress(OSError, ValueError):
        record = json.loads(_record(folder).read_text()) | record
    write_privately(_record(folder), json.dumps(record))


def _leave(started: Started, folder: Path) -> None:
    """Give up our use; the last one stops whatever runs in the folder, crashed predecessors' servers included."""
    assert started.use is not None
    with started.use, suppress(BlockingIOError):
        fcntl.flock(started.use, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (started.redis or EmbeddedRedis(folder / "redis")).stop()
        (started.postgres or EmbeddedPostgres(folder / "postgres")).stop()
        _record(folder).unlink(missing_ok=True)


def _use(folder: Path) -> IO[str]:
    """A shared lock, which the system takes back from a process that dies."""
    file = (folder / "in-use").open("w")
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _record(folder: Path) -> Path:
    return folder / "services.json"
