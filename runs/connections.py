"""The Redis clients of a process: none of them retries by itself, all of them give up soon.

redis-py's own retries hide a lost connection from whoever has to act on it, and turn a hung Redis into a minute of
silence (measured: a PUBLISH took 58.7 s with its defaults, 1.0 s like this).
"""

from functools import cache

import redis
import redis.asyncio
from django.conf import settings
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

REDIS_ERRORS = (redis.RedisError, OSError)


@cache
def control() -> redis.Redis:
    """For sync code: short commands, an answer within a second or an error."""
    return redis.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=1.0,
        socket_connect_timeout=1.0,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=10,
        protocol=2,
    )


def async_client(timeout: float) -> redis.asyncio.Redis:
    """For one event loop; `timeout` in seconds bounds each read, a blocking command included."""
    return redis.asyncio.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=timeout,
        socket_connect_timeout=2.0,
        retry=AsyncRetry(NoBackoff(), 0),
        health_check_interval=10,
        protocol=2,
    )
