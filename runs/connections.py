"""The Redis clients of a process: none of them retries by itself, all of them give up soon.

redis-py's own retries hide a lost connection from whoever has to act on it, and turn a hung Redis into a minute of
silence (measured: a PUBLISH took 58.7 s with its defaults, 1.0 s like this).
"""

import asyncio
from collections.abc import Awaitable
from functools import cache
from typing import Any, TypeVar

import redis
import redis.asyncio
from django.conf import settings
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

T = TypeVar("T")

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


async def uncancelled(command: Awaitable[T]) -> T:
    """Awaits a command that no cancel reaches, only its awaiter: the connection stays fit for the next command."""
    return await asyncio.shield(asyncio.ensure_future(command))


class _Connection(redis.asyncio.Connection):
    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        task = asyncio.current_task()
        assert task is not None
        cancels = task.cancelling()
        try:
            await super().send_packed_command(command, check_health)
        except RuntimeError as error:
            # uvloop refuses to write to a connection that was reset, with an error that is none of Redis' own.
            raise redis.ConnectionError(str(error)) from error
        if task.cancelling() > cancels:
            # It came just when all was sent: `asyncio.wait_for` of Python 3.11, which redis-py uses, drops it then.
            await self.disconnect(nowait=True)
            raise asyncio.CancelledError


def async_client(timeout: float) -> redis.asyncio.Redis:
    """For one event loop; `timeout` in seconds bounds each read, a blocking command included."""
    return redis.asyncio.Redis.from_url(
        settings.REDIS_URL,
        connection_class=_Connection,
        socket_timeout=timeout,
        socket_connect_timeout=2.0,
        retry=AsyncRetry(NoBackoff(), 0),
        health_check_interval=10,
        protocol=2,
    )
