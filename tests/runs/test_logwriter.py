"""The writer of the event log against a real Redis that forgets, refuses, and gets newer attempts."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from agents import chunks
from agents.chunks import Chunk
from runs import eventlog, lifecycle, logwriter
from runs.database import in_thread
from runs.eventlog import Entry, EntryId, entries, key, message_so_far
from runs.logwriter import LogWriter, RunLog
from runs.models import Run
from runs.transcript import Transcript, assembled
from tests.factories import run_in

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis")]


@pytest.fixture
def run() -> Run:
    return run_in("running")


@pytest.fixture
async def lost() -> list[RunLog]:
    return []


@pytest.fixture
async def writer(lost: list[RunLog]) -> AsyncIterator[LogWriter]:
    writer = LogWriter(lost.append)
    task = asyncio.create_task(writer.run())
    yield writer
    task.cancel()


def log_of(redis: Any, run_id: UUID) -> list[Entry]:
    return entries(redis.xrange(key(run_id)))


def message(redis: Any, run: Run) -> Any:
    """What a reader assembles from the log; it must be usable and dense."""
    log = message_so_far(log_of(redis, run.pk), run.attempt)
    assert log is not None
    return assembled("m", (entry.chunk for entry in log)).parts


async def opened(writer: LogWriter, run: Run) -> RunLog:
    log = writer.open(run.pk, run.attempt, Transcript(str(run.message_id), {"attempt": run.attempt}))
    await writer.fence(run.pk, run.attempt)
    log.begin()
    for chunk in begin():
        log.emit(chunk)
    return log


def begin() -> list[Chunk]:
    return [chunks.start_step(), chunks.opened("text", "text-0-0")]


def say(log: RunLog, text: str) -> None:
    log.emit(chunks.delta("text", "text-0-0", text))


async def test_entries_are_dense_behind_the_fence_and_deltas_merge(writer: LogWriter, run: Run, redis: Any) -> None:
    log = await opened(writer, run)
    for word in "abc":
        say(log, word)
    assert await log.flushed(2)
    written = log_of(redis, run.pk)
    assert [entry.id for entry in written] == [EntryId(1, seq) for seq in range(5)]
    assert written[0].data is None
    assert written[-1].chunk["delta"] == "abc"
    assert redis.pttl(key(run.pk)) > 3_000_000


async def test_a_batch_whose_reply_was_lost_is_not_written_twice(
    writer: LogWriter, run: Run, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = await opened(writer, run)
    assert await log.flushed(2)
    # given a Redis that takes the batch and a network that loses its answer, twice
    losses = lose_replies(writer, 2, monkeypatch)
    say(log, "once")
    assert await log.flushed(3)
    assert losses == [1, 2]
    assert message(redis, run) == log.transcript.parts
    assert [entry.id.seq for entry in log_of(redis, run.pk)] == [0, 1, 2, 3, 4]


def lose_replies(writer: LogWriter, times: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    losses: list[int] = []
    make = writer._redis.pipeline

    def pipeline(**options: Any) -> Any:
        made = make(**options)
        execute = made.execute

        async def lossy(**more: Any) -> Any:
            answers = await execute(**more)
            if len(losses) < times:
                losses.append(len(losses) + 1)
                raise ConnectionError
            return answers

        made.execute = lossy
        return made

    monkeypatch.setattr(writer._redis, "pipeline", pipeline)
    return losses


async def test_after_redis_forgot_everything_the_message_begins_anew_under_the_next_ids(
    writer: LogWriter, run: Run, redis: Any
) -> None:
    log = await opened(writer, run)
    say(log, "before ")
    assert await log.flushed(2)
    newest = log_of(redis, run.pk)[-1].id
    redis.flushdb()
    say(log, "after")
    assert await log.flushed(3)
    written = log_of(redis, run.pk)
    assert written[0].is_start
    assert written[0].id > newest
    assert message(redis, run) == log.transcript.parts
    assert log.transcript.parts[-1]["text"] == "before after"


async def test_after_a_restart_from_an_older_snapshot_the_message_begins_anew(
    writer: LogWriter, run: Run, redis: Any
) -> None:
    log = await opened(writer, run)
    assert await log.flushed(2)
    say(log, "kept ")
    assert await log.flushed(2)
    snapshot = redis.dump(key(run.pk))
    say(log, "lost ")
    assert await log.flushed(2)
    redis.restore(key(run.pk), 0, snapshot, replace=True)
    say(log, "said")
    assert await log.flushed(3)
    assert message(redis, run) == log.transcript.parts
    assert log.transcript.parts[-1]["text"] == "kept lost said"


async def test_a_silent_run_notices_with_the_heartbeat_that_its_log_is_gone(
    writer: LogWriter, run: Run, redis: Any
) -> None:
    log = await opened(writer, run)
    say(log, "thinking")
    assert await log.flushed(2)
    redis.flushdb()
    await writer.check()
    assert await log.flushed(3)
    assert message(redis, run) == log.transcript.parts


async def test_a_writer_behind_a_newer_fence_writes_nothing_more(
    writer: LogWriter, run: Run, redis: Any, lost: list[RunLog]
) -> None:
    log = await opened(writer, run)
    assert await log.flushed(2)
    await in_thread(eventlog.fence, run.pk, 2)
    before = log_of(redis, run.pk)
    say(log, "from the dead")
    assert not await log.flushed(2)
    assert log_of(redis, run.pk) == before
    assert lost == [log]


async def test_a_log_that_is_given_up_with_a_batch_on_its_way_leaves_the_others_alone(
    writer: LogWriter, run: Run, redis: Any
) -> None:
    other_run = await in_thread(run_in, "running")
    given_up = await opened(writer, run)
    async with asyncio.timeout(2):
        while given_up._batch is None:
            await asyncio.sleep(0)
    given_up.lose()
    other = await opened(writer, other_run)
    assert await other.flushed(2)
    assert message(redis, other_run) == other.transcript.parts


async def test_a_writer_without_its_lease_does_not_write_into_an_empty_redis(
    writer: LogWriter, run: Run, redis: Any, lost: list[RunLog]
) -> None:
    # given a worker that was thought dead, and a Redis that forgot the fence of the attempt after it
    log = await opened(writer, run)
    assert await log.flushed(2)
    await in_thread(lifecycle.rescue, Run.objects.filter(pk=run.pk), 1)
    redis.flushdb()
    say(log, "from the dead")
    assert not await log.flushed(2)
    assert lost == [log]
    assert log_of(redis, run.pk) == []


async def test_a_log_that_reaches_its_cap_begins_anew_in_few_entries(
    writer: LogWriter, run: Run, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logwriter, "MOST_ENTRIES", 10)
    log = await opened(writer, run)
    for number in range(30):
        say(log, f"{number} ")
        assert await log.flushed(2)
    assert len(log_of(redis, run.pk)) < 16
    assert message(redis, run) == log.transcript.parts


async def test_what_was_said_while_redis_refused_comes_when_it_takes_it(
    writer: LogWriter, run: Run, redis: Any
) -> None:
    log = await opened(writer, run)
    assert await log.flushed(2)
    redis.config_set("maxmemory", "1")
    try:
        say(log, "waits")
        assert not await log.flushed(0.3)
    finally:
        redis.config_set("maxmemory", "0")
    assert await log.flushed(3)
    assert message(redis, run) == log.transcript.parts


async def test_what_was_said_behind_a_refused_batch_is_written_without_another_word(
    writer: LogWriter, run: Run, redis: Any
) -> None:
    log = await opened(writer, run)
    assert await log.flushed(2)
    redis.config_set("maxmemory", "1")
    try:
        say(log, "refused ")
        assert not await log.flushed(0.3)
        say(log, "and the end")
    finally:
        redis.config_set("maxmemory", "0")
    assert await log.flushed(3)
    assert message(redis, run) == log.transcript.parts


async def test_a_log_that_cannot_be_written_holds_up_no_other(writer: LogWriter, run: Run, redis: Any) -> None:
    other_run = await in_thread(run_in, "running")
    log, other = await opened(writer, run), await opened(writer, other_run)
    assert await log.flushed(2)
    redis.delete(key(run.pk))
    redis.set(key(run.pk), "none of ours")
    say(log, "waits")
    say(other, "comes")
    assert await other.flushed(2)
    assert message(redis, other_run) == other.transcript.parts
    assert not log.is_idle
    redis.delete(key(run.pk))
    assert await log.flushed(3)
    assert message(redis, run) == log.transcript.parts


async def test_more_logs_than_one_command_takes_are_all_written(
    writer: LogWriter, run: Run, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logwriter, "LOGS_A_COMMAND", 2)
    runs = [run, *[await in_thread(run_in, "running") for _ in range(4)]]
    logs = [await opened(writer, each) for each in runs]
    for number, log in enumerate(logs):
        say(log, str(number))
    for each, log in zip(runs, logs, strict=True):
        assert await log.flushed(2)
        assert message(redis, each) == log.transcript.parts


async def test_where_many_speak_each_is_written_less_often_with_more_in_it(
    writer: LogWriter, run: Run, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logwriter, "WRITES_PER_SECOND", 5)
    log = await opened(writer, run)
    assert await log.flushed(2)
    began = time.monotonic()
    for _ in range(40):
        say(log, "word ")
        await asyncio.sleep(0.01)
    assert await log.flushed(2)
    took = time.monotonic() - began
    deltas = [entry for entry in log_of(redis, run.pk) if entry.data and b'"text-delta"' in entry.data]
    assert len(deltas) <= took * 5 + 2
    assert message(redis, run) == log.transcript.parts


async def test_the_fence_of_an_older_attempt_does_not_follow_a_newer_one(run: Run, redis: Any) -> None:
    run_id = uuid4()
    for attempt in (1, 3, 2, 3):
        await in_thread(eventlog.fence, run_id, attempt)
    assert [entry.id for entry in log_of(redis, run_id)] == [EntryId(1, 0), EntryId(3, 0)]
