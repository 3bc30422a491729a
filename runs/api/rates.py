"""How often somebody may do something in a minute, counted in Redis: one script for each try, so that tries at once do
not slip through together.

While Redis is away everybody may: a limit protects the service, it does not keep it from working.
"""

from __future__ import annotations

import hashlib
import math
import time
from functools import cache

import structlog
from django.conf import settings
from limits import RateLimitItemPerMinute
from limits.storage import RedisStorage
from limits.strategies import MovingWindowRateLimiter

from runs.connections import REDIS_ERRORS, control

logger = structlog.get_logger(__name__)

# So long after an error nobody asks Redis for a place or a count: each of them would wait for it.
OUTAGE_SECONDS = 2.0


class Outage:
    """Whether Redis can be asked; told of once, however long it lasts."""

    def __init__(self) -> None:
        self._until = 0.0
        self._is_known = False

    @property
    def lasts(self) -> bool:
        return time.monotonic() < self._until

    def begin(self, error: Exception) -> None:
        self._until = time.monotonic() + OUTAGE_SECONDS
        if not self._is_known:
            self._is_known = True
            logger.warning("limits_not_enforced", error=type(error).__name__)

    def end(self) -> None:
        self._is_known = False


outage = Outage()


def seconds_to_wait(what: str, per_minute: int, *who: object) -> int:
    """0: welcome, and counted. Otherwise nothing is counted, and it is worth trying again after so many seconds.

    `per_minute` 0 is no limit.
    """
    if not per_minute or outage.lasts:
        return 0
    limit = RateLimitItemPerMinute(per_minute)
    # Of one length, whatever a stranger takes for a name.
    key = hashlib.sha256(repr(who).encode()).hexdigest()[:32]
    try:
        is_welcome = _windows().hit(limit, what, key)
        free_at = 0.0 if is_welcome else _windows().get_window_stats(limit, what, key).reset_time
    except REDIS_ERRORS as error:
        outage.begin(error)
        return 0
    outage.end()
    return 0 if is_welcome else max(1, math.ceil(free_at - time.time()))


@cache
def _windows() -> MovingWindowRateLimiter:
    return MovingWindowRateLimiter(
        RedisStorage(settings.REDIS_URL, connection_pool=control().connection_pool, key_prefix="rate")
    )
