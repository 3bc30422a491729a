"""Follows the logs of all runs that somebody reads in this process: one Redis connection, one query, however many."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import structlog

from runs.connections import REDIS_ERRORS, async_client, uncancelled
from runs.database import in_thread
from runs.eventlog import BEFORE_ALL, Entry, entries, key
from runs.models import Run

logger = structlog.get_logger(__name__)

# Entries a reader may lag behind before it is sent to read the log by itself.
BUFFER = 1000
BLOCK_SECONDS = 2.0
FIRST_BACK_OFF, LONGEST_BACK_OFF = 0.05, 1.0
ROW_WATCH_SECONDS = 1.0
# Catching up is done by so many readers at a time; the others wait their turn.
READS_AT_ONCE = 16
PAGE = 1000
# An id no run has: what wakes the tail when a reader comes.
_WAKE_SECONDS = 3600


@dataclass(slots=True, eq=False)
class Feed:
    """What one reader gets of one log. `ended` says that the row is terminal or gone."""

    run_id: UUID
    entries: deque[Entry] = field(default_factory=deque)
    overflowed: bool = False
    ended: bool = False
    heard_at: float = 0.0
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, batch: Iterable[Entry], now: float) -> None:
        self.heard_at = now
        if not self.overflowed:
            self.entries.extend(batch)
            if len(self.entries) > BUFFER:
                self.entries.clear()
                self.overflowed = True
        self._news.set()

    def note_end(self) -> None:
        if not self.ended:
            self.ended = True
            self._news.set()

    async def take(self, seconds: float) -> list[Entry]:
        """What came, at once or within so many seconds; nothing also when only `ended` or `overflowed` changed."""
        if not self._news.is_set():
            try:
                async with asyncio.timeout(seconds):
                    await self._news.wait()
            except TimeoutError:
                return []
        self._news.clear()
        batch = list(self.entries)
        self.entries.clear()
        return batch


@dataclass(slots=True)
class _Followed:
    """`cursor` is the newest entry in Redis' words, of whatever form."""

    cursor: str
    feeds: set[Feed] = field(default_factory=set)


class LogTail:
    """Belongs to one event loop, on which it lives for ever once somebody follows a run."""

    def __init__(self) -> None:
        self._following = async_client(timeout=BLOCK_SECONDS + 3)
        self._reading = async_client(timeout=3)
        self._reads = asyncio.Semaphore(READS_AT_ONCE)
        self._followed: dict[UUID, _Followed] = {}
        self._somebody = asyncio.Event()
        self._wake_key = f"tail:{uuid4()}"
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._follow_for_ever()), loop.create_task(self._watch_rows())]

    @asynccontextmanager
    async def follow(self, run_id: UUID) -> AsyncIterator[Feed]:
        """The feed holds every entry that is written from now on; what was written before is read with `read`."""
        feed = Feed(run_id, heard_at=asyncio.get_running_loop().time())
        followed = self._followed.get(run_id)
        if followed is None:
            newest = await self._newest(run_id)
            followed = self._followed.setdefault(run_id, _Followed(newest))
        is_new = not followed.feeds
        followed.feeds.add(feed)
        try:
            if is_new:
                await self._wake()
            yield feed
        finally:
            followed.feeds.discard(feed)
            if not followed.feeds and self._followed.get(run_id) is followed:
                del self._followed[run_id]

    async def read(self, run_id: UUID, start: str, count: int | None = None) -> list[Entry]:
        """The log from that id on, in Redis' notation. Raises REDIS_ERRORS."""
        async with self._reads:
            reply: Any = await uncancelled(self._reading.xrange(key(run_id), start, "+", count))
        return entries(reply)

    async def _newest(self, run_id: UUID) -> str:
        try:
            async with self._reads:
                reply: Any = await uncancelled(self._reading.xrevrange(key(run_id), "+", "-", 1))
        except REDIS_ERRORS:
            return str(BEFORE_ALL)
        return reply[0][0].decode() if reply else str(BEFORE_ALL)

    async def _wake(self) -> None:
        """The blocking read does not know the new log yet; an entry in a log of its own ends it."""
        self._somebody.set()
        await uncancelled(self._ring())

    async def _ring(self) -> None:
        try:
            async with self._reads, self._reading.pipeline(transaction=False) as pipeline:
                pipeline.xadd(self._wake_key, {"w": "1"}, maxlen=1, approximate=False)
                pipeline.expire(self._wake_key, _WAKE_SECONDS)
                await pipeline.execute()
        except REDIS_ERRORS:
            pass  # it wakes by itself within BLOCK_SECONDS

    async def _follow_for_ever(self) -> None:
        back_off, awake = FIRST_BACK_OFF, b"0-0"
        while True:
            await self._somebody.wait()
            try:
                awake = await self._follow_once(awake)
                back_off = FIRST_BACK_OFF
            except Exception as error:
                # Whatever it was: without this task every reader of the process is blind.
                if back_off == FIRST_BACK_OFF:  # once an outage, however long
                    logger.warning("tail_down", error=type(error).__name__)
                await asyncio.sleep(back_off)
                back_off = min(back_off * 2, LONGEST_BACK_OFF)
            if not self._followed:
                self._somebody.clear()

    async def _follow_once(self, awake: bytes) -> bytes:
        wanted: dict[Any, Any] = {key(run_id): one.cursor for run_id, one in self._followed.items()}
        wanted[self._wake_key] = awake
        reply: Any = await self._following.xread(wanted, count=PAGE, block=int(BLOCK_SECONDS * 1000))
        now = asyncio.get_running_loop().time()
        for raw_key, batch in reply or ():
            name = raw_key.decode()
            if name == self._wake_key:
                awake = batch[-1][0]
            else:
                self._deliver(UUID(name.split(":")[1]), batch, now)
        # Reading many logs costs much a time and little an entry: let some more of them come together.
        await asyncio.sleep(min(len(wanted) * 0.0001, 0.01))
        return awake

    def _deliver(self, run_id: UUID, batch: Any, now: float) -> None:
        followed = self._followed.get(run_id)
        if followed and batch:
            followed.cursor = batch[-1][0].decode()
            ours = entries(batch)
            for feed in followed.feeds:
                feed.put(ours, now)

    async def _watch_rows(self) -> None:
        """Tells silent readers whose run is over: its worker may have died between the row and the last chunk."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(ROW_WATCH_SECONDS)
            feeds = [feed for one in self._followed.values() for feed in one.feeds if not feed.ended]
            silent = [feed for feed in feeds if loop.time() - feed.heard_at >= ROW_WATCH_SECONDS]
            if not silent:
                continue
            try:
                active = await in_thread(_active, {feed.run_id for feed in silent})
            except Exception as error:
                logger.warning("row_watch_failed", error=type(error).__name__)
                continue
            for feed in silent:
                if feed.run_id not in active:
                    feed.note_end()


def _active(run_ids: set[UUID]) -> set[UUID]:
    return set(Run.objects.active().filter(pk__in=run_ids).values_list("pk", flat=True))


_tails: dict[int, tuple[asyncio.AbstractEventLoop, LogTail]] = {}


def tail() -> LogTail:
    """The one of the running event loop."""
    loop = asyncio.get_running_loop()
    known = _tails.get(id(loop))
    if known is None or known[0] is not loop:
        known = _tails[id(loop)] = (loop, LogTail())
    return known[1]
