"""How long this process has reached the database without a break: who could not see is no judge of who was silent."""

import threading
import time
from collections.abc import Callable

import structlog
from django.conf import settings
from django.db import connection

logger = structlog.get_logger(__name__)


class Witness:
    """Fed by whatever talks to the database regularly; asked before others are judged stale.

    A pause between two looks is a break as well: whoever was frozen may not have been the only one.
    """

    def __init__(self) -> None:
        self._unbroken_since: float | None = None
        self._reached_at = 0.0

    def reached(self) -> None:
        now = time.monotonic()
        if self._unbroken_since is None or now - self._reached_at > settings.RUN_STALE_SECONDS / 2:
            self._unbroken_since = now
        self._reached_at = now

    def missed(self) -> None:
        self._unbroken_since = None

    def can_judge(self, window_seconds: float) -> bool:
        now, since = time.monotonic(), self._unbroken_since
        looked_lately = now - self._reached_at <= settings.RUN_STALE_SECONDS / 2
        return since is not None and looked_lately and now - since >= window_seconds

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
            except Exception as error:
                if self._unbroken_since is not None:  # once an outage, however long
                    logger.warning("database_missed", error=type(error).__name__)
                self.missed()
            finally:
                connection.close()
            time.sleep(interval)


def _ping() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


witness = Witness()
