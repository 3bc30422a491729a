"""What readers assemble, whenever they join and whatever Redis does meanwhile: the message, whole."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from django.db.models import Q

from agents import chunks
from agents.chunks import Chunk
from chat.models import Chat
from runs import eventlog, lifecycle, stream, tail
from runs.connections import control
from runs.database import in_thread
from runs.ending import COMPLETED, ending_chunks, start_chunk
from runs.errors import BrokenOff
from runs.eventlog import EntryId, key, parse_entry_id
from runs.logwriter import LogWriter, RunLog
from runs.models import Run
from runs.transcript import Transcript, assembled, merge
from tests.factories import RunFactory, run_in
from tests.timing import in_time

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis")]


class Reader:
    """Reads a run as a client does: `start` begins the message anew; a frame without id keeps the cursor."""

    def __init__(self, run: Run, cursor: EntryId | None = None, *, one_start: bool = False) -> None:
        self.run = run
        self.cursor = cursor
        self.one_start = one_start
        self.ids: list[EntryId] = []
        self.chunks: list[Chunk] = []
        self.starts = 0
        self.pings = 0
        self.done = False

    async def read(self) -> "Reader":
        async for piece in stream.events(self.run.pk, self.cursor, one_start=self.one_start):
            for frame in piece.decode().split("\n\n")[:-1]:
                self._take(frame.split("\n"))
        return self

    def _take(self, lines: list[str]) -> None:
        if lines == [": ping"]:
            self.pings += 1
        elif lines == ["data: [DONE]"]:
            self.done = True
        else:
            for line in lines[:-1]:
                entry_id = parse_entry_id(line.removeprefix("id: "))
                assert entry_id is not None
                self.cursor = entry_id
                self.ids.append(entry_id)
            chunk = json.loads(lines[-1].removeprefix("data: "))
            if chunk["type"] == "start":
                self.starts += 1
                self.chunks = []
            self.chunks.append(chunk)

    @property
    def message(self) -> Transcript:
        return assembled("m", self.chunks)


class Writing:
    """A worker's writer at work on one run."""

    def __init__(self, run: Run, writer: LogWriter) -> None:
        self.run = run
        self.writer = writer
        self.log: RunLog = writer.open(run.pk, run.attempt, assembled("", [start_chunk(run)]))

    async def begin(self) -> "Writing":
        await self.writer.fence(self.run.pk, self.run.attempt)
        self.log.begin()
        self.log.emit(chunks.start_step())
        self.log.emit(chunks.opened("text", "text-0-0"))
        return self

    async def say(self, text: str) -> None:
        self.log.emit(chunks.delta("text", "text-0-0", text))
        assert await self.log.flushed(3)

    async def settle(self, *, with_end: bool = True) -> None:
        for chunk in list(self.log.transcript.sealing()):
            self.log.emit(chunk)
        end = list(ending_chunks(self.run, COMPLETED))
        metadata = self.log.transcript.metadata
        for chunk in end:
            merge(metadata, chunk.get("messageMetadata", {}))
        await in_thread(lifecycle.settle, self.run, COMPLETED, self.log.transcript.parts, metadata)
        for chunk in end if with_end else ():
            self.log.emit(chunk)
        assert await self.log.flushed(3)


@pytest.fixture
def run() -> Run:
    return run_in("running")


@pytest.fixture
async def writing(run: Run) -> AsyncIterator[Writing]:
    writer = LogWriter(lambda _: None)
    task = asyncio.create_task(writer.run())
    yield await Writing(run, writer).begin()
    task.cancel()


async def stored(run: Run) -> tuple[Any, Any]:
    fresh = await in_thread(Run.objects.select_related("message").get, Q(pk=run.pk))
    assert fresh.message is not None
    return fresh.message.parts, fresh.message.metadata


async def assert_whole(reader: Reader) -> None:
    assert reader.done
    assert (reader.message.parts, reader.message.metadata) == await stored(reader.run)


async def joined(reader: Reader) -> asyncio.Task[Reader]:
    task = asyncio.create_task(reader.read())
    async with asyncio.timeout(3):
        while not reader.chunks:
            await asyncio.sleep(0.005)
    return task


async def test_a_reader_from_before_the_beginning_sees_everything_once(run: Run, writing: Writing) -> None:
    task = await joined(reader := Reader(run))
    for word in ("one ", "two ", "three"):
        await writing.say(word)
    await writing.settle()
    await asyncio.wait_for(task, 3)
    await assert_whole(reader)
    assert reader.starts == 1
    assert [entry_id.seq for entry_id in reader.ids] == list(range(1, len(reader.ids) + 1))


async def test_a_reader_of_a_pending_run_follows_it_through_claim_and_stop(redis: Any) -> None:
    run = await in_thread(RunFactory)
    task = await joined(reader := Reader(run))
    answer = await in_thread(lifecycle.request_stop, run.pk, None, "user")
    assert answer is not None
    end = [start_chunk(answer.run), *ending_chunks(answer.run)]
    await in_thread(eventlog.write_whole, run.pk, answer.run.attempt, end)
    await asyncio.wait_for(task, 3)
    await assert_whole(reader)


async def test_every_cursor_gets_the_exact_suffix(run: Run, writing: Writing) -> None:
    for word in ("one ", "two ", "three"):
        await writing.say(word)
    await writing.settle()
    whole = await Reader(run).read()
    for position, cursor in enumerate(whole.ids):
        reader = await Reader(run, cursor).read()
        assert reader.ids == whole.ids[position + 1 :]
        assert reader.chunks == whole.chunks[position + 1 :]
        assert reader.done


@pytest.mark.parametrize("cursor", [EntryId(1, 999), EntryId(7, 1), EntryId(0, 0), EntryId(1, 10**14)])
async def test_a_cursor_the_log_does_not_have_gets_the_whole_message(
    run: Run, writing: Writing, cursor: EntryId
) -> None:
    await writing.say("all of it")
    await writing.settle()
    reader = await Reader(run, cursor).read()
    assert reader.starts == 1
    await assert_whole(reader)


async def test_readers_that_drop_and_return_at_random_are_whole(run: Run, writing: Writing) -> None:
    async def restless(seed: int) -> Reader:
        choice = random.Random(seed)
        await asyncio.sleep(choice.random() / 2)
        reader = Reader(run)
        while not reader.done:
            task = asyncio.create_task(reader.read())
            await asyncio.wait({task}, timeout=choice.random() / 5)
            task.cancel()
            await asyncio.wait({task})
        return reader

    tasks = [asyncio.create_task(restless(seed)) for seed in range(40)]
    for number in range(60):
        await writing.say(f"{number} ")
        await asyncio.sleep(0.005)
    await writing.settle()
    for reader in await asyncio.wait_for(asyncio.gather(*tasks), 10):
        await assert_whole(reader)


async def test_a_reader_begins_anew_when_redis_forgot(run: Run, writing: Writing, redis: Any) -> None:
    task = await joined(reader := Reader(run))
    await writing.say("before ")
    redis.flushdb()
    await writing.say("after")
    await writing.settle()
    await asyncio.wait_for(task, 3)
    await assert_whole(reader)
    assert reader.starts == 2


async def test_a_reader_across_a_gap_begins_anew(run: Run, writing: Writing, redis: Any) -> None:
    await writing.say("one ")
    half = Reader(run)
    task = await joined(half)
    task.cancel()
    await writing.say("two ")
    await writing.say("three")
    await writing.settle()
    assert half.cursor is not None
    redis.xdel(key(run.pk), str(EntryId(1, half.cursor.seq + 1)))
    half.done = False
    await half.read()
    await assert_whole(half)


async def test_a_newer_attempt_begins_the_message_anew(run: Run, writing: Writing) -> None:
    task = await joined(reader := Reader(run))
    await writing.say("of the attempt that dies")
    await in_thread(lifecycle.rescue, Run.objects.filter(pk=run.pk), 1)
    claimed = await in_thread(lifecycle.claim, run.pk, 2, run.claim_token, "w")
    assert claimed is not None
    second = await Writing(claimed, writing.writer).begin()
    await second.say("of the next")
    await second.settle()
    await asyncio.wait_for(task, 3)
    await assert_whole(reader)
    assert reader.starts == 2
    # and so does a cursor of the attempt that died
    late = await Reader(run, EntryId(1, 2)).read()
    await assert_whole(late)


async def test_a_log_of_an_attempt_that_is_over_is_not_used(run: Run, writing: Writing) -> None:
    await writing.say("of the attempt that died")
    await in_thread(lifecycle.rescue, Run.objects.filter(pk=run.pk), 1)
    task = await joined(reader := Reader(run))
    assert reader.message.parts == []
    assert reader.ids == []
    task.cancel()


async def test_a_run_whose_worker_died_before_its_last_chunk_ends_by_its_row(run: Run, writing: Writing) -> None:
    task = await joined(reader := Reader(run))
    await writing.say("all of it")
    began = time.monotonic()
    await writing.settle(with_end=False)
    await asyncio.wait_for(task, 5)
    took = time.monotonic() - began
    assert took >= 2.0
    in_time(took, 4.5)
    await assert_whole(reader)


async def test_a_finished_run_is_told_from_its_row_when_the_log_is_gone(run: Run, writing: Writing, redis: Any) -> None:
    await writing.say("all of it")
    await writing.settle()
    redis.flushdb()
    for cursor in (None, EntryId(1, 3)):
        reader = await Reader(run, cursor).read()
        await assert_whole(reader)
        assert reader.ids == []


async def test_a_reader_that_lags_is_sent_to_read_the_log(
    run: Run, writing: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "BUFFER", 3)
    reader = Reader(run)
    pieces = stream.events(run.pk, None)
    first = await anext(pieces)
    for frame in first.decode().split("\n\n")[:-1]:
        reader._take(frame.split("\n"))
    for number in range(20):
        await writing.say(f"{number} ")
    await writing.settle()
    await asyncio.sleep(0.1)
    async for piece in pieces:
        for frame in piece.decode().split("\n\n")[:-1]:
            reader._take(frame.split("\n"))
    await assert_whole(reader)
    assert reader.starts == 1


async def test_a_silent_stream_is_kept_alive_by_comments(
    run: Run, writing: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "PING_SECONDS", 0.1)
    task = await joined(reader := Reader(run))
    async with asyncio.timeout(3):
        while reader.pings < 2:
            await asyncio.sleep(0.02)
    task.cancel()


async def test_the_stream_of_a_deleted_run_is_broken_off(run: Run, writing: Writing) -> None:
    task = await joined(Reader(run))
    await in_thread(Chat.objects.filter(pk=run.chat_id).delete)
    with pytest.raises(BrokenOff):
        await asyncio.wait_for(task, 6)


async def test_waiting_ends_with_the_run_or_with_the_time(run: Run, writing: Writing) -> None:
    began = time.monotonic()
    await stream.ended(run.pk, 0.2)
    took = time.monotonic() - began
    assert took > 0.15
    in_time(took, 1)
    waiting = asyncio.create_task(stream.ended(run.pk, 30))
    await asyncio.sleep(0.05)
    await writing.settle()
    await asyncio.wait_for(waiting, 1)
    await asyncio.wait_for(stream.ended(run.pk, 30), 1)


async def test_readers_across_an_outage_of_redis_are_whole(
    run: Run, writing: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a reader with a cursor, one with nothing, and a Redis whose reads fail while its other connections live
    monkeypatch.setattr(stream, "RETRY_SECONDS", 0.05)
    await writing.say("one ")
    returning = Reader(run)
    task = await joined(returning)
    task.cancel()
    read, away = tail.LogTail.read, True

    async def failing(self: tail.LogTail, *args: Any) -> Any:
        if away:
            raise ConnectionError
        return await read(self, *args)

    monkeypatch.setattr(tail.LogTail, "read", failing)
    fresh = Reader(run)
    tasks = [asyncio.create_task(reader.read()) for reader in (returning, fresh)]
    await asyncio.sleep(0.1)
    await writing.say("two ")
    await asyncio.sleep(0.1)
    # the one with a cursor was told nothing that its cursor does not say
    assert [chunk["type"] for chunk in returning.chunks].count("start") == 1
    # when Redis reads again, which lost nothing
    away = False
    await writing.say("three")
    await writing.settle()
    await asyncio.wait_for(asyncio.gather(*tasks), 5)
    for reader in (returning, fresh):
        await assert_whole(reader)
    assert returning.starts == 1


async def test_a_reader_that_leaves_is_forgotten(run: Run, writing: Writing) -> None:
    for wait in (0.0, 0.001, 0.005, 0.05):
        task = asyncio.create_task(Reader(run).read())
        await asyncio.sleep(wait)
        task.cancel()
        await asyncio.wait({task})
    await asyncio.sleep(0.05)
    assert tail.tail()._followed == {}


async def test_a_cursor_of_a_later_attempt_follows_the_live_one() -> None:
    run = await in_thread(RunFactory)
    task = await joined(reader := Reader(run, EntryId(9, 9)))
    claimed = await in_thread(lifecycle.claim, run.pk, 1, run.pk, "w")
    assert claimed is not None
    writer = LogWriter(lambda _: None)
    flushing = asyncio.create_task(writer.run())
    writing = await Writing(claimed, writer).begin()
    await writing.say("heard")
    await writing.settle()
    await asyncio.wait_for(task, 5)
    await assert_whole(reader)
    flushing.cancel()


async def test_a_reader_of_one_start_waits_for_that_of_the_log() -> None:
    # given a run that nobody has claimed yet, with one reader of either kind
    run = await in_thread(RunFactory)
    waiting, usual = Reader(run, one_start=True), Reader(run)
    tasks = [asyncio.create_task(waiting.read()), await joined(usual)]
    assert (waiting.pings, waiting.chunks) == (1, [])
    # when it is claimed and done
    claimed = await in_thread(lifecycle.claim, run.pk, 1, run.pk, "w")
    assert claimed is not None
    writer = LogWriter(lambda _: None)
    flushing = asyncio.create_task(writer.run())
    writing = await Writing(claimed, writer).begin()
    await writing.say("heard")
    await writing.settle()
    await asyncio.wait_for(asyncio.gather(*tasks), 5)
    # then both have it
    for reader in (waiting, usual):
        await assert_whole(reader)
    assert (waiting.starts, usual.starts) == (1, 2)
    flushing.cancel()


async def test_a_reader_of_one_start_is_broken_off_at_the_next(run: Run, writing: Writing) -> None:
    task = await joined(reader := Reader(run, one_start=True))
    await writing.say("before ")
    control().delete(key(run.pk))
    await writing.say("after")
    with pytest.raises(BrokenOff):
        await asyncio.wait_for(task, 5)
    assert (reader.starts, reader.done) == (1, False)
    # and gets it all when it comes back
    again = asyncio.create_task((reader := Reader(run, one_start=True)).read())
    await writing.settle()
    await asyncio.wait_for(again, 5)
    await assert_whole(reader)


async def test_a_reader_of_one_start_is_broken_off_where_the_row_tells_the_end(run: Run, writing: Writing) -> None:
    task = await joined(Reader(run, one_start=True))
    await writing.settle(with_end=False)
    with pytest.raises(BrokenOff):
        await asyncio.wait_for(task, 8)
    await assert_whole(await Reader(run, one_start=True).read())


async def test_a_reader_of_one_start_gets_it_when_redis_is_back(
    run: Run, writing: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "RETRY_SECONDS", 0.05)
    read, away = tail.LogTail.read, True

    async def failing(self: tail.LogTail, *args: Any) -> Any:
        if away:
            raise ConnectionError
        return await read(self, *args)

    monkeypatch.setattr(tail.LogTail, "read", failing)
    task = asyncio.create_task((reader := Reader(run, one_start=True)).read())
    await asyncio.sleep(0.1)
    assert reader.chunks == []
    away = False
    await writing.say("heard")
    await writing.settle()
    await asyncio.wait_for(task, 5)
    await assert_whole(reader)
    assert reader.starts == 1
