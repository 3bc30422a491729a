"""Attached runs: what the end of the stream that created one means to it, and who notices."""

import gc
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, transaction
from django.db.models.functions import Now
from pytest_django import DjangoAssertNumQueries
from structlog.testing import capture_logs

from runs import dispatch, heartbeat, lifecycle, stop, sweep
from runs.attached import Attachments, CreatorStream
from runs.database import in_thread
from runs.models import Run
from runs.stream import BrokenOff
from tests.factories import ChatFactory, run_in
from tests.runs.test_lifecycle import at_once

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis")]
several_connections = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "send", lambda *_: True)


@pytest.fixture
def attachments() -> Attachments:
    return Attachments()


def attached_run(status: str = "running", seen_seconds_ago: float = 0, **fields: Any) -> Run:
    run = run_in(status, detached=False, **fields)
    Run.objects.filter(pk=run.pk).update(attached_seen_at=Now() - timedelta(seconds=seen_seconds_ago))
    run.refresh_from_db()
    return run


async def pieces(*some: bytes | Exception) -> AsyncIterator[bytes]:
    for piece in some:
        if isinstance(piece, Exception):
            raise piece
        yield piece


def again(run: Run) -> Run:
    run.refresh_from_db()
    return run


async def read(stream: CreatorStream, count: int = 10) -> list[bytes]:
    found: list[bytes] = []
    async for piece in stream:
        found.append(piece)
        if len(found) == count:
            break
    return found


@pytest.mark.parametrize(
    ("status", "after", "reason"), [("pending", "aborted", "disconnected"), ("running", "running", "")]
)
def test_a_stream_that_is_dropped_stops_its_run(attachments: Attachments, status: str, after: str, reason: str) -> None:
    run = attached_run(status)
    attachments.stream_of(run, pieces(b"a", b"b")).close()
    assert (again(run).status, run.end_reason, run.stop_source) == (after, reason, "disconnect")
    assert run.stop_requested_at is not None
    assert run.stop_requested_by is None


@several_connections
async def test_a_stream_that_is_dropped_half_read_stops_its_run(attachments: Attachments) -> None:
    run = await in_thread(attached_run)
    stream = attachments.stream_of(run, pieces(b"a", b"b"))
    assert await read(stream, 1) == [b"a"]
    await in_thread(stream.close)
    assert (await in_thread(again, run)).stop_source == "disconnect"


@several_connections
async def test_a_stream_that_was_read_to_its_end_stops_nothing(attachments: Attachments) -> None:
    run = await in_thread(attached_run)
    stream = attachments.stream_of(run, pieces(b"a", b"b"))
    assert await read(stream) == [b"a", b"b"]
    await in_thread(stream.close)
    assert (await in_thread(again, run)).stop_requested_at is None


@several_connections
async def test_a_stream_that_we_break_off_lets_go_of_its_run(attachments: Attachments) -> None:
    run = await in_thread(attached_run)
    stream = attachments.stream_of(run, pieces(b"a", BrokenOff()))
    with pytest.raises(BrokenOff):
        await read(stream)
    await in_thread(stream.close)
    found = await in_thread(again, run)
    assert (found.stop_requested_at, found.detached) == (None, True)


def test_the_stream_of_a_detached_run_is_only_logged(attachments: Attachments) -> None:
    run = run_in("running")
    with capture_logs() as logs:
        attachments.stream_of(run, pieces()).close()
    assert [log["event"] for log in logs] == ["creator_disconnected"]
    assert again(run).stop_requested_at is None


def test_a_stream_is_closed_once(attachments: Attachments) -> None:
    run = attached_run()
    stream = attachments.stream_of(run, pieces())
    stream.close()
    Run.objects.filter(pk=run.pk).update(stop_requested_at=None)
    stream.close()
    assert again(run).stop_requested_at is None


def test_a_run_that_was_detached_meanwhile_goes_on(attachments: Attachments) -> None:
    run = attached_run()
    stream = attachments.stream_of(run, pieces())
    lifecycle.detach([run.pk])
    stream.close()
    assert again(run).stop_requested_at is None


def test_open_streams_are_seen_in_one_statement(
    attachments: Attachments, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    runs = [attached_run(seen_seconds_ago=60) for _ in range(5)]
    ended, closed = attached_run(seen_seconds_ago=60), attached_run(seen_seconds_ago=60)
    streams = [attachments.stream_of(run, pieces()) for run in [*runs, ended, closed]]
    Run.objects.filter(pk=ended.pk).update(status="aborted", end_reason="stopped", finished_at=Now())
    streams.pop().close()
    with django_assert_num_queries(1):
        attachments.tend()
    young = Run.objects.filter(attached_seen_at__gt=Now() - timedelta(seconds=30))
    assert set(young.values_list("pk", flat=True)) == {run.pk for run in runs}


def test_a_process_without_streams_reaches_the_database_too(
    attachments: Attachments, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    with django_assert_num_queries(1):
        attachments.tend()


def test_a_stream_that_nobody_closed_is_not_seen_any_more(attachments: Attachments) -> None:
    run = attached_run(seen_seconds_ago=60)
    stream = attachments.stream_of(run, pieces())
    del stream
    gc.collect()
    attachments.tend()
    assert Run.objects.abandoned(30).get() == run


@several_connections
def test_a_locked_run_does_not_keep_the_others_from_being_seen() -> None:
    locked, free = attached_run(seen_seconds_ago=60), attached_run(seen_seconds_ago=60)
    with transaction.atomic():
        Run.objects.select_for_update().get(pk=locked.pk)
        at_once(1, lambda: heartbeat.renew_attached([locked.pk, free.pk]))
    assert Run.objects.abandoned(30).get() == locked


@pytest.mark.parametrize("status", ["pending", "running"])
def test_the_sweep_stops_what_nobody_has_seen_for_a_window(status: str) -> None:
    gone, seen = attached_run(status, 31), attached_run(status, 29)
    detached = attached_run(status, 31)
    lifecycle.detach([detached.pk])
    assert sweep.sweep(window_seconds=30).abandoned == [gone.pk]
    assert again(gone).stop_source == "disconnect"
    assert {again(seen).stop_requested_at, again(detached).stop_requested_at} == {None}
    assert sweep.sweep(window_seconds=30).abandoned == []


@pytest.mark.parametrize(
    "rival", [lambda run: heartbeat.renew_attached([run.pk]), lambda run: lifecycle.detach([run.pk])]
)
def test_who_is_seen_again_while_the_sweep_looks_is_not_stopped(
    monkeypatch: pytest.MonkeyPatch, rival: Callable[[Run], Any]
) -> None:
    run = attached_run(seen_seconds_ago=31)
    request_stop = stop.request_stop

    def after_rival(*arguments: Any, **only: Any) -> Any:
        rival(run)
        return request_stop(*arguments, **only)

    monkeypatch.setattr(sweep, "request_stop", after_rival)
    assert sweep.sweep(window_seconds=30).abandoned == []
    assert again(run).stop_requested_at is None


def test_a_process_that_was_told_to_end_detaches_its_runs_first(attachments: Attachments) -> None:
    run, other = attached_run(), attached_run()
    stream = attachments.stream_of(run, pieces())
    attachments.release()
    attachments.tend()
    assert again(run).detached
    stream.close()
    # and so is what begins meanwhile
    beginning = attachments.stream_of(other, pieces())
    assert again(other).detached
    beginning.close()
    assert {again(run).stop_requested_at, again(other).stop_requested_at} == {None}


def test_a_stream_that_ends_between_the_order_and_the_detaching_stops_nothing(attachments: Attachments) -> None:
    run = attached_run()
    stream = attachments.stream_of(run, pieces())
    attachments.release()
    stream.close()
    attachments.tend()
    assert (again(run).detached, run.stop_requested_at) == (True, None)


def test_what_could_not_be_detached_is_detached_later(
    attachments: Attachments, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = attached_run()
    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, "detach", unreachable)
        attachments.free(run)
    attachments.tend()
    assert again(run).detached


def test_a_stop_that_could_not_be_written_is_left_to_the_sweep(
    attachments: Attachments, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = attached_run(seen_seconds_ago=31)
    with monkeypatch.context() as patch:
        patch.setattr(stop, "request_stop", unreachable)
        attachments.stream_of(run, pieces()).close()
    attachments.tend()
    assert sweep.sweep(window_seconds=30).abandoned == [run.pk]


def unreachable(*_: object, **__: object) -> None:
    raise OperationalError


@pytest.mark.parametrize("detached", [True, False])
def test_a_run_begins_as_it_was_asked_for(detached: bool) -> None:
    chat = ChatFactory()
    wanted = dispatch.Start(chat, chat.created_by, "hello", Run.Trigger.USER, detached=detached)
    run, _ = dispatch.start_run(wanted)
    assert (run.detached, run.attached_seen_at is None) == (detached, detached)
