"""How long this process has reached the database without a break: who could not see is no judge of who was silent."""

import threading
import time
from collections.abc import Callable

from django.db import Error, connection


class Witness:
    """Fed by whatever talks to the database regularly; asked before others are judged stale."""

    def __init__(self) -> None:
        self._unbroken_since: float | None = None

    def reached(self) -> None:
        if self._unbroken_since is None:
            self._unbroken_since = time.monotonic()

    def missed(self) -> None:
        self._unbroken_since = None

    def can_judge(self, window_seconds: float) -> bool:
        since = self._unbroken_since
        return since is not None and time.monotonic() - since >= window_seconds

    def watch(self, interval: float, ping: Callable[[], None] | None = None) -> threading.Thread:
        """Pings from a thread of its own until the process ends: for a process that has no heartbeat."""
        thread = threading.Thread(target=self._watch, args=(interval, ping or _ping), name="witness", daemon=True)
        thread.start()
        return thread

    def _watch(self, interval: float, ping: Callable[[], None]) -> None:
        while True:
            try:
                ping()
                self.reached()
            except Error:
                self.missed()
            finally:
                connection.close()
            time.sleep(interval)


def _ping() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


witness = Witness()
