"""Writes the event logs of all runs of a worker process: batched, fenced, and again from the beginning when Redis
forgot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID

import redis
import structlog
from django.conf import settings

from agents.chunks import Chunk
from runs import lifecycle
from runs.connections import REDIS_ERRORS, async_client, uncancelled
from runs.database import TRANSIENT, in_thread
from runs.errors import LeaseLost
from runs.eventlog import (
    ANSWERS,
    APPEND,
    FENCE,
    LOST,
    MOST_ENTRIES,
    OK,
    REWRITE,
    Batch,
    encode,
    expiry_ms,
    key,
    merged,
    write_command,
)
from runs.transcript import Transcript

logger = structlog.get_logger(__name__)

LONGEST_BACK_OFF = 1.0
# Seconds an ended run's last chunks are tried to be written while Redis is away; readers end by the row then.
LAST_TRIES_SECONDS = 60.0
# Each write costs every reader a frame: beyond so many, runs are written less often, each time with more in it. People
# do not see a text grow oftener than `SLOWEST_FLUSH_SECONDS`.
WRITES_PER_SECOND = 1000
SLOWEST_FLUSH_SECONDS = 0.25
# One command is run by Redis without a pause for anybody else.
LOGS_A_COMMAND = 50


class RunLog:
    """The log of one attempt, as its only writer sees it."""

    def __init__(self, run_id: UUID, attempt: int, transcript: Transcript, writer: LogWriter) -> None:
        self.run_id = run_id
        self.attempt = attempt
        self.transcript = transcript
        self.lost = False
        self._writer = writer
        self._queue: list[Chunk] = []
        self._batch: Batch | None = None
        self._seq = 0
        self._since_start = 0
        self._anew = False
        self._idle = asyncio.Event()
        self._idle.set()

    def begin(self) -> None:
        """Readers get `start` and what the journal had: the first chunks of every attempt."""
        self._queue = list(self.transcript.replay())
        self._idle.clear()
        self._writer.wake(self)

    def emit(self, chunk: Chunk) -> None:
        """Folds the chunk into the message and sees to it that readers get it. Never waits."""
        self.transcript.fold(chunk)
        self._queue.append(chunk)
        if len(self._queue) > MOST_ENTRIES:
            self._anew = True  # a long outage: the whole message is less than all its chunks
        self._idle.clear()
        self._writer.wake(self)

    def begin_anew(self) -> None:
        """Redis forgot: under the next ids, `start` and the whole message so far."""
        self._anew = True
        self._idle.clear()
        self._writer.wake(self)

    async def flushed(self, seconds: float) -> bool:
        """Waits until all that was emitted is written; False if it is not, by then."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return not self.lost

    def next_batch(self) -> Batch | None:
        if self._batch is None and not self.lost:
            if self._anew:
                payload = encode(self.transcript.replay())
                self._anew, self._since_start = False, 0
                self._batch = Batch(self.run_id, self.attempt, REWRITE, self._seq + 1, payload)
            elif self._queue:
                payload = encode(merged(self._queue))
                self._batch = Batch(self.run_id, self.attempt, APPEND, self._seq + 1, payload)
            self._queue = []
        return self._batch

    @property
    def must_renew(self) -> bool:
        """Whether the lease has to be proven before the next batch: a log begun anew could be a dead attempt's."""
        return self._batch is None and self._anew

    def answered(self, answer: bytes) -> None:
        """What the script said of the batch on its way; no matter to a log that was given up meanwhile."""
        batch = self._batch
        if batch is None:
            return
        self._batch, self._seq = None, batch.last
        if answer == LOST:
            self.lose()
        elif answer != OK:
            self.begin_anew()
        elif batch.what == APPEND:
            self._since_start += len(batch.payload)
            if self._since_start > MOST_ENTRIES:
                self.begin_anew()
        if not (self._queue or self._anew):
            self._idle.set()

    def lose(self) -> None:
        self.lost = True
        self._queue, self._batch, self._anew = [], None, False
        self._idle.set()

    @property
    def is_idle(self) -> bool:
        return self._idle.is_set()


class LogWriter:
    """One task a process flushes all logs, every `RUN_FLUSH_MS` or, where many runs speak, as often as
    `WRITES_PER_SECOND` allows; the first chunk after a pause goes out at once."""

    def __init__(self, on_lost: Callable[[RunLog], None]) -> None:
        self._on_lost = on_lost
        self._redis = async_client(timeout=3.0)
        self._dirty: dict[RunLog, None] = {}
        self._open: set[RunLog] = set()
        self._awake = asyncio.Event()
        self._renewing: dict[RunLog, asyncio.Task[None]] = {}

    def open(self, run_id: UUID, attempt: int, transcript: Transcript) -> RunLog:
        log = RunLog(run_id, attempt, transcript, self)
        self._open.add(log)
        return log

    def close(self, log: RunLog) -> None:
        """No more chunks come; what is on its way is still written, within bounds."""
        self._open.discard(log)
        asyncio.get_running_loop().call_later(LAST_TRIES_SECONDS, log.lose)

    def wake(self, log: RunLog) -> None:
        self._dirty[log] = None
        self._awake.set()

    async def fence(self, run_id: UUID, attempt: int) -> None:
        """Best effort: without a fence the first batch finds its log forgotten, and proves the lease."""
        try:
            await uncancelled(self._redis.eval(FENCE, 1, key(run_id), attempt, expiry_ms()))
        except REDIS_ERRORS as error:
            logger.warning("fence_failed", run_id=str(run_id), attempt=attempt, error=type(error).__name__)

    async def run(self) -> None:
        """The flushing task. Ends only by cancellation: without it nobody would see any run of this process."""
        back_off, written = 0.0, 0
        while True:
            await self._awake.wait()
            self._awake.clear()
            try:
                written = await self._flush()
                back_off = 0.0
            except Exception as error:
                if not back_off:  # once an outage, however long
                    logger.warning("log_flush_failed", error=type(error).__name__, exc_info=_unexpected(error))
                back_off = min(max(back_off * 2, 0.05), LONGEST_BACK_OFF)
                self._awake.set()
            crowded = min(written / WRITES_PER_SECOND, SLOWEST_FLUSH_SECONDS)
            await asyncio.sleep(max(settings.RUN_FLUSH_MS / 1000, crowded, back_off))

    async def check(self) -> None:
        """Every open log still stands in Redis, or is begun anew; keeps the logs of silent runs from expiring."""
        logs = [log for log in self._open if log.is_idle and not log.lost]
        if not logs:
            return
        pipeline = self._redis.pipeline(transaction=False)
        for log in logs:
            pipeline.pexpire(key(log.run_id), expiry_ms())
        try:
            stands = await pipeline.execute(raise_on_error=False)
        except REDIS_ERRORS:
            return
        for log, answer in zip(logs, stands, strict=True):
            if answer == 0 and log.is_idle and log in self._open:
                log.begin_anew()

    async def _flush(self) -> int:
        """How many logs were written."""
        dirty, self._dirty = list(self._dirty), {}
        try:
            return await self._write(dirty)
        except Exception:
            # Nothing that waits to be written is forgotten; a log that has nothing to write does no harm.
            self._dirty |= dict.fromkeys(dirty)
            raise

    async def _write(self, dirty: list[RunLog]) -> int:
        writing: list[tuple[RunLog, Batch]] = []
        for log in dirty:
            if log.must_renew:
                self._renew(log)
            elif batch := log.next_batch():
                writing.append((log, batch))
        if not writing:
            return 0
        answers = await self._answers([batch for _, batch in writing])
        for (log, _), answer in zip(writing, answers, strict=True):
            self._take_answer(log, answer)
        if not any(answer in ANSWERS for answer in answers):
            raise redis.ResponseError(answers[0])  # it is Redis, and not one log: out of memory, for instance
        return len(writing)

    async def _answers(self, batches: list[Batch]) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for first in range(0, len(batches), LOGS_A_COMMAND):
            pipeline.eval(*write_command(batches[first : first + LOGS_A_COMMAND]))
        return [answer for answers in await pipeline.execute() for answer in answers]

    def _take_answer(self, log: RunLog, answer: Any) -> None:
        """Anything but one of the three leaves the batch to be repeated."""
        if answer not in ANSWERS:
            self.wake(log)
            return
        log.answered(answer)
        if log.lost:
            self._on_lost(log)
        elif not log.is_idle:
            self.wake(log)  # what was said while this batch was repeated: nobody else may ever speak again

    def _renew(self, log: RunLog) -> None:
        if log not in self._renewing:
            self._renewing[log] = asyncio.create_task(self._renew_and_begin(log))

    async def _renew_and_begin(self, log: RunLog) -> None:
        """The lease is proven in Postgres, then the log is begun anew: what was folded until then goes with it."""
        try:
            if log in self._open:
                await in_thread(lifecycle.renew, log.run_id, log.attempt)
            log.next_batch()
        except LeaseLost:
            log.lose()
            self._on_lost(log)
        except TRANSIENT:
            await asyncio.sleep(LONGEST_BACK_OFF)
        finally:
            del self._renewing[log]
        self.wake(log)


def _unexpected(error: Exception) -> Exception | None:
    """The traceback is worth a line where it is not Redis that is away."""
    return None if isinstance(error, REDIS_ERRORS) else error
