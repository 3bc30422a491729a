"""The stream of a run and the wait for its end, read from rows and logs; no worker runs."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from django.test import AsyncClient

from agents import chunks
from agents.chunks import Chunk
from chat.models import Chat, Message
from runs import stream
from runs.connections import control
from runs.database import in_thread
from runs.ending import ending_chunks, start_chunk
from runs.errors import BrokenOff
from runs.eventlog import APPEND, Batch, encode, fence, write_command, write_whole
from runs.models import Run
from runs.stop import request_stop
from tests.api.callers import assert_refused
from tests.factories import RunFactory, StepFactory, run_in

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis", "tail_ends_with_its_loop")]

DONE = "data: [DONE]"


@pytest.fixture
def reader(person: Any) -> AsyncClient:
    client = AsyncClient()
    client.force_login(person)
    return client


def saying(run: Run, *texts: str) -> list[Chunk]:
    opened = [start_chunk(run), chunks.start_step(), chunks.opened("text", "text-0-0")]
    return [*opened, *(chunks.delta("text", "text-0-0", text) for text in texts)]


def whole(run: Run) -> list[Chunk]:
    """All that a run which has ended wrote to its log: seven entries, then those of the end."""
    return [*saying(run, "a", "b"), chunks.ended("text", "text-0-0"), chunks.finish_step(), *ending_chunks(run)]


@pytest.fixture
def ended(chat: Chat) -> Run:
    run = run_in("succeeded", chat=chat)
    write_whole(run.pk, 1, whole(run))
    return run


@pytest.fixture
def live(chat: Chat) -> Run:
    run = run_in("running", chat=chat)
    write_whole(run.pk, 1, saying(run, "a"))
    return run


async def frames(response: Any) -> AsyncIterator[str]:
    """Frame by frame, however they were put into pieces."""
    rest = ""
    async for piece in response.streaming_content:
        *complete, rest = (rest + piece.decode()).split("\n\n")
        for frame in complete:
            yield frame
    assert not rest


async def read(reader: AsyncClient, run: Run, query: str = "", **headers: str) -> list[str]:
    response = await reader.get(f"/api/runs/{run.pk}/stream{query}", headers=headers)
    assert response.status_code == 200
    return [frame async for frame in frames(response)]


def numbered(written: list[Chunk], first: int = 1, attempt: int = 1) -> list[str]:
    return [
        f"id: {attempt}-{seq}\ndata: {json.dumps(chunk, separators=(',', ':'))}"
        for seq, chunk in enumerate(written, start=1)
        if seq >= first
    ]


def unnumbered(written: list[Chunk]) -> list[str]:
    return [f"data: {json.dumps(chunk, separators=(',', ':'))}" for chunk in written]


async def test_a_stream_is_the_log_from_its_start(reader: AsyncClient, ended: Run) -> None:
    assert await read(reader, ended) == [*numbered(whole(ended)), DONE]


async def test_a_stream_says_what_it_is(reader: AsyncClient, ended: Run) -> None:
    path = f"/api/runs/{ended.pk}/stream"
    for response in (
        await reader.get(path),
        await reader.head(path),
        await reader.get(path, headers={"Accept": "x/y"}),
    ):
        assert response.status_code == 200
        assert response["Content-Type"] == "text/event-stream"
        assert response["Cache-Control"] == "no-cache, no-transform"
        assert response["X-Accel-Buffering"] == "no"
        assert response["x-vercel-ai-ui-message-stream"] == "v1"
        assert "Connection" not in response
        assert "Content-Encoding" not in response


async def test_a_head_of_a_live_stream_does_not_wait(reader: AsyncClient, live: Run) -> None:
    response = await reader.head(f"/api/runs/{live.pk}/stream")
    assert (response.status_code, response.content) == (200, b"")


async def test_a_reader_gets_the_exact_suffix_after_its_cursor(reader: AsyncClient, ended: Run) -> None:
    suffix = [*numbered(whole(ended), first=4), DONE]
    assert await read(reader, ended, "?after=1-3") == suffix
    assert await read(reader, ended, **{"Last-Event-ID": "1-3"}) == suffix
    assert await read(reader, ended, **{"last-event-id": "1-3"}) == suffix


async def test_the_header_wins_over_the_query(reader: AsyncClient, ended: Run) -> None:
    for after in ("1-5", "0-0", "rubbish"):
        got = await read(reader, ended, f"?after={after}", **{"Last-Event-ID": "1-3"})
        assert got == [*numbered(whole(ended), first=4), DONE]


async def test_a_cursor_at_the_end_gets_nothing_but_done(reader: AsyncClient, ended: Run) -> None:
    assert await read(reader, ended, f"?after=1-{len(whole(ended))}") == [DONE]


async def test_a_cursor_the_log_does_not_have_gets_the_whole_message(reader: AsyncClient, ended: Run) -> None:
    for after in ("0-0", "1-0", "1-99", "2-1", "9-3", "9999999999-999999999999999"):
        assert await read(reader, ended, f"?after={after}") == [*numbered(whole(ended)), DONE]


CURSORS = [
    *("", "0", "-1", "abc", "error", "1", "1-", "-", "1-2-3", "1_2", "1:2", "1-2,1-3", "1-2 ", " 1-2", "+1-2", "1-+2"),
    *("1.0-2", "1e1-2", "01-2", "1-02", "٣-١", "１-２", "1-2\n", "1-2\0", "$", ">", "-1-2", "1--2", "x" * 10_000),
    *(f"{2**63}-1", f"1-{10**30}", str(uuid4())),
]


async def test_a_cursor_of_another_form_is_refused(reader: AsyncClient, ended: Run) -> None:
    path = f"/api/runs/{ended.pk}/stream"
    for after in CURSORS:
        in_header = {"Last-Event-ID": after.encode().decode("latin-1")}
        assert_refused(await reader.get(path, {"after": after}), "CURSOR_INVALID")
        assert_refused(await reader.get(path, headers=in_header), "CURSOR_INVALID")
        assert (await reader.head(path, headers=in_header)).status_code == 400


async def test_a_stream_takes_no_other_parameter(reader: AsyncClient, ended: Run) -> None:
    for query in ("channel=x", "es-meta=x", "link=next", "recover=true", "after=1-1&after=1-1", "cursor=1-1"):
        response = await reader.get(f"/api/runs/{ended.pk}/stream?{query}")
        assert_refused(response, "INVALID", query.partition("=")[0])


async def test_a_run_that_has_ended_and_expired_is_read_from_its_message(
    reader: AsyncClient, ended: Run, redis: Any
) -> None:
    redis.flushdb()
    parts = [{"type": "step-start"}, {"type": "text", "text": "ab", "state": "done"}]
    await Message.objects.filter(run=ended).aupdate(parts=parts)
    told = [*saying(ended, "ab"), chunks.ended("text", "text-0-0"), chunks.finish_step(), *ending_chunks(ended)]
    assert await read(reader, ended) == [*unnumbered(told), DONE]
    assert await read(reader, ended, "?after=1-3") == [*unnumbered(told), DONE]


async def test_a_run_whose_message_was_deleted_still_ends(reader: AsyncClient, ended: Run, redis: Any) -> None:
    redis.flushdb()
    await Message.objects.filter(run=ended).adelete()
    run = await Run.objects.aget(pk=ended.pk)
    assert await read(reader, run) == [*unnumbered([start_chunk(run), *ending_chunks(run)]), DONE]


async def test_a_live_run_without_its_log_is_read_from_its_journal(reader: AsyncClient, live: Run, redis: Any) -> None:
    redis.flushdb()
    await in_thread(lambda: StepFactory(run=live))
    response = await reader.get(f"/api/runs/{live.pk}/stream")
    first = [frame async for frame in first_of(frames(response), 5)]
    hello = [*saying(live, "hello"), chunks.ended("text", "text-0-0")]
    assert first == unnumbered(hello)


async def test_a_reader_follows_a_run_to_its_end(reader: AsyncClient, live: Run) -> None:
    response = await reader.get(f"/api/runs/{live.pk}/stream")
    got = frames(response)
    assert [frame async for frame in first_of(got, 4)] == numbered(saying(live, "a"))
    # when the run goes on and ends
    finished = [*saying(live, "a", "b"), chunks.ended("text", "text-0-0"), chunks.finish_step(), chunks.finish({})]
    following = asyncio.create_task(rest_of(got))
    await in_thread(append, live, finished[4:], 5)
    # then
    assert await following == [*numbered(finished, first=5), DONE]


async def test_a_reader_of_a_pending_run_sees_it_stopped(reader: AsyncClient, chat: Chat) -> None:
    run = await in_thread(lambda: RunFactory(chat=chat))
    response = await reader.get(f"/api/runs/{run.pk}/stream")
    got = frames(response)
    assert await anext(got) == unnumbered([start_chunk(run)])[0]
    # when
    following = asyncio.create_task(rest_of(got))
    await in_thread(request_stop, run.pk, None, "user")
    # then
    stopped = await Run.objects.aget(pk=run.pk)
    assert await following == [*numbered([start_chunk(stopped), *ending_chunks(stopped)], attempt=2), DONE]


async def test_a_new_attempt_begins_anew(reader: AsyncClient, live: Run) -> None:
    got = frames(await reader.get(f"/api/runs/{live.pk}/stream?after=1-2"))
    assert [frame async for frame in first_of(got, 2)] == numbered(saying(live, "a"), first=3)
    following = asyncio.create_task(rest_of(got))
    again = [*saying(live, "x"), chunks.finish({})]
    await in_thread(fence, live.pk, 2)
    await in_thread(write_whole, live.pk, 2, again)
    assert await following == [*numbered(again, attempt=2), DONE]


async def test_a_silent_stream_is_kept_alive(reader: AsyncClient, live: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PING_SECONDS", 0.05)
    response = await reader.get(f"/api/runs/{live.pk}/stream")
    assert [frame async for frame in first_of(frames(response), 6)][4:] == [": ping", ": ping"]


@pytest.mark.parametrize("status", ["succeeded", "failed", "aborted"])
async def test_a_wait_for_a_run_that_has_ended_is_none(reader: AsyncClient, chat: Chat, status: str) -> None:
    run = await in_thread(lambda: run_in(status, chat=chat))
    response = await reader.get(f"/api/runs/{run.pk}/wait")
    assert (response.status_code, response["Content-Type"]) == (200, "application/json")
    assert response["Cache-Control"] == "no-store"
    assert await body(response) == (await reader.get(f"/api/runs/{run.pk}")).json()


async def test_a_wait_ends_with_the_run(reader: AsyncClient, chat: Chat) -> None:
    run = await in_thread(lambda: RunFactory(chat=chat))
    response = await reader.get(f"/api/runs/{run.pk}/wait?timeout=60")
    waiting = asyncio.create_task(body(response))
    await in_thread(request_stop, run.pk, None, "user")
    async with asyncio.timeout(20):
        assert (await waiting)["status"] == "aborted"


async def test_a_wait_gives_up_with_the_run_as_it_is(reader: AsyncClient, live: Run) -> None:
    response = await reader.get(f"/api/runs/{live.pk}/wait?timeout=1.0")
    assert (await body(response))["status"] == "running"


TIMEOUTS = [*("0", "0.9", "60.1", "61", "-1", "abc", "", "1e1", "nan", "inf", "1_0", "٣٠", " 30", "9" * 5000)]


async def test_a_wait_lasts_from_1_to_60_seconds(reader: AsyncClient, live: Run) -> None:
    for timeout in TIMEOUTS:
        response = await reader.get(f"/api/runs/{live.pk}/wait", {"timeout": timeout})
        assert_refused(response, "INVALID", "timeout")


async def test_a_run_that_is_deleted_breaks_its_wait_off(reader: AsyncClient, chat: Chat) -> None:
    run = await in_thread(lambda: RunFactory(chat=chat))
    response = await reader.get(f"/api/runs/{run.pk}/wait?timeout=60")
    await in_thread(lambda: Run.objects.filter(pk=run.pk).delete())
    with pytest.raises(BrokenOff):
        await body(response)


async def first_of(got: AsyncIterator[str], count: int) -> AsyncIterator[str]:
    for _ in range(count):
        async with asyncio.timeout(20):
            frame = await anext(got)
        yield frame


async def rest_of(got: AsyncIterator[str]) -> list[str]:
    async with asyncio.timeout(20):
        return [frame async for frame in got if frame != ": ping"]


async def body(response: Any) -> Any:
    return json.loads(b"".join([piece async for piece in response.streaming_content]))


def append(run: Run, written: list[Chunk], first: int) -> None:
    """As the worker that holds the run does."""
    control().eval(*write_command([Batch(run.pk, run.attempt, APPEND, first, encode(written))]))
