"""What a reader of a run gets, as server-sent events: the exact suffix after its cursor, or the message anew.

Source of every rule here: `docs/stream.md`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from uuid import UUID

import structlog

from agents.chunks import Chunk
from runs import journal
from runs.connections import REDIS_ERRORS
from runs.database import in_thread
from runs.ending import ending_chunks, start_chunk
from runs.errors import BrokenOff
from runs.eventlog import BEFORE_ALL, Entry, EntryId, encode, message_so_far
from runs.models import Run
from runs.tail import PAGE, Feed, LogTail, tail
from runs.transcript import unfold

logger = structlog.get_logger(__name__)

HEADERS = {
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
    "x-vercel-ai-ui-message-stream": "v1",
}
DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
PING_SECONDS = 10.0
# A log this silent under a terminal row will not get its end any more.
SILENCE_SECONDS = 2.0
# The row is read, then the log: so often may the row have changed in between.
TRIES = 5
# Between two looks whether Redis is back.
RETRY_SECONDS = 1.0


async def events(run_id: UUID, cursor: EntryId | None, *, one_start: bool = False) -> AsyncIterator[bytes]:
    """The body of the response, frames in handy pieces. With `one_start`, for clients that cannot begin a message anew,
    BrokenOff is raised where a second `start` is due."""
    async with aclosing(_Reader(run_id, cursor, tail(), one_start).pieces()) as pieces:
        try:
            async for piece in pieces:
                yield piece
        except BrokenOff:
            logger.info("stream_broken_off", run_id=str(run_id))
            raise


async def ended(run_id: UUID, seconds: float) -> None:
    """Returns when the run is terminal, or after so many seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    async with tail().follow(run_id) as feed:
        run = await in_thread(_row, run_id)
        while run is not None and not run.is_terminal and not feed.ended and (left := deadline - loop.time()) > 0:
            if any(entry.is_terminal for entry in await feed.take(left)):
                return


class _Reader:
    """One reader's place in one log. `_last` is the entry whose successor comes next, None while only a `start` will
    do; nothing up to `_floor` is news. While Redis is away the reader is `_behind`."""

    def __init__(self, run_id: UUID, cursor: EntryId | None, log: LogTail, one_start: bool) -> None:
        self._run_id = run_id
        self._last = cursor
        self._floor = cursor or BEFORE_ALL
        self._log = log
        self._has_something = cursor is not None
        self._one_start = one_start
        self._behind = False
        self._over = False

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        async with self._log.follow(self._run_id) as feed:
            yield await self._begin()
            while not self._over:
                yield await self._next(feed)
            yield DONE

    async def _begin(self) -> bytes:
        self._behind = False
        try:
            caught_up = await self._catch_up() if self._last else None
            return await self._anew() if caught_up is None else caught_up
        except REDIS_ERRORS:
            return await self._without_log()

    async def _without_log(self) -> bytes:
        """Redis is away. A reader with nothing gets what the journal has; one with something keeps that, as its cursor
        says. Both begin again when Redis is back."""
        self._behind = True
        if self._has_something:
            return PING
        run = await in_thread(_row, self._run_id)
        if run is None:
            raise BrokenOff
        return await self._from_row(run)

    async def _catch_up(self) -> bytes | None:
        """The suffix after the last entry; None if the log does not have that entry any more, or has a gap."""
        pieces = []
        while True:
            assert self._last is not None
            here = self._last
            page = await self._log.read(self._run_id, str(here), PAGE)
            if not page or page[0].id != here:
                return None
            self._over = page[0].is_terminal
            piece = self._accept(page[1:])
            if piece is None:
                return None
            pieces.append(piece)
            if len(page) < PAGE or self._over:
                return b"".join(pieces)

    async def _anew(self) -> bytes:
        """`start` and the whole message: from the log if that is the row's, else from row and journal."""
        for _ in range(TRIES):
            run = await in_thread(_row, self._run_id)
            if run is None:
                raise BrokenOff
            try:
                log = await self._log.read(self._run_id, f"{run.attempt}-0")
            except REDIS_ERRORS:
                if not run.is_terminal:
                    raise
                log = []
            if log and log[-1].id.attempt > run.attempt:
                continue  # the row has changed since
            message = message_so_far(log, run.attempt)
            if message and (message[-1].is_terminal or not run.is_terminal):
                self._last = self._floor = message[-1].id
                self._over = message[-1].is_terminal
                self._note_start()
                return _frames(message)
            self._last, self._floor = None, log[-1].id if log else EntryId(run.attempt, 0)
            return await self._from_row(run)
        raise BrokenOff

    async def _from_row(self, run: Run) -> bytes:
        if self._one_start and not run.is_terminal:
            return PING  # its log will begin with a `start`, and that is the one
        self._over = run.is_terminal
        self._note_start()
        return _plain_frames(await in_thread(_chunks, run))

    async def _next(self, feed: Feed) -> bytes:
        """The next piece, which may be a keep-alive."""
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        if self._behind:
            await feed.take(RETRY_SECONDS)
            return await self._begin()
        while True:
            batch = await feed.take(min(PING_SECONDS, SILENCE_SECONDS if feed.ended else PING_SECONDS))
            if feed.overflowed:
                feed.overflowed = False
                return await self._begin()
            if batch:
                piece = self._accept(batch)
                if piece is None:
                    return await self._anew()
                if piece:
                    return piece
            now = loop.time()
            if feed.ended and now - max(feed.heard_at, asked_at) >= SILENCE_SECONDS:
                return await self._anew()
            if now - asked_at >= PING_SECONDS:
                return PING

    def _accept(self, batch: list[Entry]) -> bytes | None:
        """Frames of what comes next in the log; None at a gap."""
        accepted = []
        for entry in batch:
            if entry.id <= self._floor or entry.data is None:
                continue
            if not entry.is_start:
                if self._last is None:
                    continue  # what comes before the next `start` is of an attempt that is over
                if entry.id != (self._last.attempt, self._last.seq + 1):
                    return None
            else:
                self._note_start()
            self._last = self._floor = entry.id
            accepted.append(entry)
            if entry.is_terminal:
                self._over = True
                break
        return _frames(accepted)

    def _note_start(self) -> None:
        if self._one_start and self._has_something:
            raise BrokenOff
        self._has_something = True


def _frames(entries: Iterable[Entry]) -> bytes:
    return b"".join(b"id: %s\ndata: %s\n\n" % (str(entry.id).encode(), entry.data) for entry in entries)


def _plain_frames(chunks: Iterable[Chunk]) -> bytes:
    """Of what was not read from the log: a cursor must not point there."""
    return b"".join(b"data: %s\n\n" % data for data in encode(chunks))


def _row(run_id: UUID) -> Run | None:
    return Run.objects.filter(pk=run_id).first()


def _chunks(run: Run) -> list[Chunk]:
    """A finished run as its stored message tells it, a live one as far as the journal has it."""
    if not run.is_terminal:
        return list(journal.transcript_of(run, journal.recorded_steps(run.pk)).replay())
    parts = run.message.parts if run.message else []
    return [start_chunk(run), *unfold(parts), *ending_chunks(run)]
