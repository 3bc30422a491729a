import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from config import services
from config.embedded import Embedded, EmbeddedPostgres, EmbeddedRedis
from config.processes import command_of

SECOND_PROCESS = """
import sys
from config import services
started = services.ensure()
print("in", flush=True)
sys.stdin.readline()
services.stop(started)
"""


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PERDURE_STATE", str(tmp_path / "state"))
    forget_addresses(monkeypatch)
    return tmp_path / "state"


@pytest.fixture
def started(state: Path) -> Iterator[services.Started]:
    started = services.ensure(fast=True)
    yield started
    services.stop(started)


def forget_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty is unset, and nothing that a developer's .env can fill in."""
    for name in services.NAMES:
        monkeypatch.setenv(name, "")


def answers(server: Embedded) -> bool:
    try:
        if isinstance(server, EmbeddedPostgres):
            psycopg.connect(server.url, connect_timeout=2).close()
        else:
            redis.Redis.from_url(server.url, socket_timeout=2).ping()
    except (psycopg.OperationalError, redis.RedisError):
        return False
    return True


def test_servers_are_started_once_and_named_in_the_environment(state: Path, started: services.Started) -> None:
    assert started.postgres is not None
    assert started.redis is not None
    assert answers(started.postgres)
    assert answers(started.redis)
    assert os.environ["DATABASE_URL"] == started.postgres.url
    assert services.recorded_urls() == (started.postgres.url, started.redis.url)
    assert services.ensure() == services.Started()
    assert (state / "services.json").stat().st_mode & 0o777 == 0o600


def test_named_servers_are_taken_as_they_are(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://db.example/perdure")
    monkeypatch.setenv("REDIS_URL", "redis://redis.example")
    services.stop(services.ensure())
    assert list(state.iterdir()) == []
    assert services.recorded_urls() is None


def test_the_last_one_out_stops_the_servers(started: services.Started, monkeypatch: pytest.MonkeyPatch) -> None:
    assert started.postgres is not None
    assert started.redis is not None
    forget_addresses(monkeypatch)
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", SECOND_PROCESS], stdin=pipe, stdout=pipe, cwd=services.PROJECT
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"in\n"
        services.stop(started)
        assert answers(started.postgres)
        assert answers(started.redis)
        other.communicate(b"\n")
    assert started.postgres.pid is None
    assert started.redis.pid is None
    assert services.recorded_urls() is None


def test_what_a_power_cut_left_behind_is_noticed(
    state: Path, started: services.Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert started.postgres is not None
    assert started.redis is not None
    record = (state / "services.json").read_text()
    started.redis.kill()
    started.postgres.kill()
    services.stop(started)
    # Both pids belong to somebody else by now.
    (state / "services.json").write_text(record)
    (state / "postgres" / "postmaster.pid").write_text(f"{os.getpid()}\n{state}\n0\n5432\n\n\n0\nready\n")
    (state / "redis" / "redis.pid").write_text(f"{os.getpid()}\n")
    assert services.recorded_urls() is None

    forget_addresses(monkeypatch)
    again = services.ensure(fast=True)
    try:
        assert again.postgres is not None
        assert again.redis is not None
        assert answers(again.postgres)
        assert answers(again.redis)
    finally:
        services.stop(again)


@pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedRedis])
def test_a_server_can_be_paused_killed_and_had_again_at_its_address(
    kind: type[EmbeddedPostgres] | type[EmbeddedRedis], tmp_path: Path
) -> None:
    server = kind(tmp_path / "server")
    server.start()
    try:
        address, first = server.url, server.pid
        server.pause()
        assert not answers(server)
        server.resume()
        assert answers(server)
        server.restart()
        assert answers(server)
        server.kill()
        assert server.pid is None
        assert not answers(server)
        server.start()
        assert answers(server)
        assert server.url == address
        assert server.pid != first
    finally:
        server.stop()


def test_a_command_ended_by_sigterm_takes_its_servers_along(state: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "import manage, signal; manage._start_servers(); print('in', flush=True); signal.pause()",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=services.PROJECT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in\n"
        redis_pid = int((state / "redis" / "redis.pid").read_text())
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM
    assert command_of(redis_pid) == []
    assert not (state / "services.json").exists()
