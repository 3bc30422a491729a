"""What every test gets: nobody talks to a real provider, and Redis is empty."""

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection

from runs import database, feed
from runs.api import guard
from runs.connections import control

_connect = socket.socket.connect


def _connect_to_this_machine(self: socket.socket, address: Any) -> None:
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise AssertionError(f"a test tried to reach {address}")
    _connect(self, address)


@pytest.fixture(autouse=True, scope="session")
def _database_threads_keep_no_connection() -> Iterator[None]:
    """The test database is dropped in the end, which nobody may be connected to."""

    def connected(work: Callable[..., Any], *args: Any) -> Any:
        try:
            return work(*args)
        finally:
            connection.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "_connected", connected)
        yield


@pytest.fixture(autouse=True)
def _no_thread_tells_the_feed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be connected to the test database at any time."""
    monkeypatch.setattr(feed._announcer, "is_muted", True)


@pytest.fixture(autouse=True)
def _no_thread_checks_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same."""
    monkeypatch.setattr(guard, "_checking", lambda: None)


@pytest.fixture(autouse=True)
def _nobody_leaves_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", _connect_to_this_machine)


@pytest.fixture
def redis() -> Iterator[Any]:
    """The Redis database of the tests, empty."""
    client = control()
    client.flushdb()
    yield client
    client.flushdb()
