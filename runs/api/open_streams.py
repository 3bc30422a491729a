"""How many streams a person has open, in all web processes together.

Each is a place in a sorted set in Redis, with the time until which it counts; the process that serves it says in time
that it counts for longer. So nothing has to be put right after a process that died, nor after a Redis that forgot.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterable, AsyncIterator
from functools import cache
from typing import Self
from uuid import uuid4
from weakref import WeakSet

import structlog
from django.conf import settings

from runs.api.rates import outage
from runs.connections import REDIS_ERRORS, control

logger = structlog.get_logger(__name__)

# A place that nobody renews counts for so long.
LEASE_SECONDS = 30
RENEW_SECONDS = 10.0

# By the clock of Redis, which all processes share. Arguments: the most there may be, seconds, the place.
_TAKE = """
    local time = redis.call('TIME')
    local now = time[1] + time[2] / 1000000
    redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
    if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
    redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[3])
    redis.call('EXPIRE', KEYS[1], ARGV[2])
    return 1
"""
# Adds what is not there: Redis may have forgotten it. Arguments: seconds, then a place for each key.
_RENEW = """
    local time = redis.call('TIME')
    local now = time[1] + time[2] / 1000000
    for i, key in ipairs(KEYS) do
        redis.call('ZADD', key, now + ARGV[1], ARGV[i + 1])
        redis.call('EXPIRE', key, ARGV[1])
    end
"""


class CountedStream:
    """A body that has a place as long as it is open. `config.handler` calls `close` when its response is over."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.place = uuid4().hex
        self._pieces: AsyncIterable[bytes] = _nothing()

    def carrying(self, pieces: AsyncIterable[bytes]) -> Self:
        self._pieces = pieces
        return self

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._pieces)

    def close(self) -> None:
        self._leave()
        if close := getattr(self._pieces, "close", None):
            close()

    def _leave(self) -> None:
        with _lock:
            was_open = self in _open
            _open.discard(self)
        if not was_open or outage.lasts:
            return  # without a word the place stops counting by itself
        try:
            control().zrem(self.key, self.place)
        except REDIS_ERRORS as error:
            outage.begin(error)


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield


# Weak: what was lost without being closed is renewed no more.
_open: WeakSet[CountedStream] = WeakSet()
_lock = threading.Lock()


def counted(user_id: object) -> CountedStream | None:
    """A stream that has a place. None: this person has too many open."""
    stream = CountedStream(f"streams:{user_id}")
    if settings.LIMIT_STREAMS:
        if not _finds_room(stream):
            return None
        with _lock:
            _open.add(stream)
        _renewing()
    return stream


def _finds_room(stream: CountedStream) -> bool:
    """True also while Redis is away: from the first renewal after that the stream counts."""
    if outage.lasts:
        return True
    try:
        found = control().eval(_TAKE, 1, stream.key, settings.LIMIT_STREAMS, LEASE_SECONDS, stream.place)
    except REDIS_ERRORS as error:
        outage.begin(error)
        return True
    outage.end()
    return bool(found)


def renew() -> None:
    """All places of this process, in one script."""
    with _lock:
        streams = list(_open)
    if not streams:
        return
    names, places = [stream.key for stream in streams], [stream.place for stream in streams]
    try:
        control().eval(_RENEW, len(names), *names, LEASE_SECONDS, *places)
    except REDIS_ERRORS as error:
        outage.begin(error)


@cache
def _renewing() -> threading.Thread:
    """Begins with the first stream of the process, and ends with the process."""
    thread = threading.Thread(target=_renew_for_ever, name="open-streams", daemon=True)
    thread.start()
    return thread


def _renew_for_ever() -> None:
    while True:
        time.sleep(RENEW_SECONDS)
        renew()
