"""The sweep: who is rescued, who is ended, what is sent again, and in how many queries."""

from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries, Settings

from agents import chunks
from runs import eventlog, journal, lifecycle, sweep
from runs.ending import start_chunk
from runs.models import Run
from runs.witness import Witness
from tests.factories import RunFactory, StepFactory, run_in
from tests.runs.conftest import audit, text

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis")]


@pytest.fixture(autouse=True)
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, int]]:
    messages: list[tuple[Any, int]] = []

    def send(run_id: Any, attempt: int) -> bool:
        messages.append((run_id, attempt))
        return True

    monkeypatch.setattr(sweep.dispatch, "send", send)
    return messages


def silent(seconds: float, **fields: Any) -> Run:
    run = run_in("running", **fields)
    Run.objects.filter(pk=run.pk).update(heartbeat_at=Now() - timedelta(seconds=seconds))
    run.refresh_from_db()
    return run


def test_the_silent_are_rescued_and_the_live_are_left_alone(sent: list[Any]) -> None:
    dead, live = silent(31), silent(29)
    assert sweep.sweep(window_seconds=30).rescued == [dead.pk]
    dead.refresh_from_db()
    live.refresh_from_db()
    assert (dead.status, dead.attempt, dead.lost_attempts) == ("pending", 2, 1)
    assert (live.status, live.attempt) == ("running", 1)
    assert sent == [(dead.pk, 2)]


def test_the_log_of_a_rescued_run_is_fenced(redis: Any) -> None:
    run = silent(31)
    sweep.sweep(window_seconds=30)
    assert redis.xrange(eventlog.key(run.pk)) == [(b"2-0", {b"f": b"1"})]


@pytest.mark.parametrize(("lost", "most", "given_up"), [(0, 3, False), (1, 3, False), (2, 3, True), (0, 1, True)])
def test_a_run_is_given_up_after_so_many_crashes(lost: int, most: int, given_up: bool, settings: Settings) -> None:
    settings.RUN_MAX_ATTEMPTS = most
    run = silent(31, lost_attempts=lost)
    sweep.sweep(window_seconds=30)
    run.refresh_from_db()
    assert run.status == ("aborted" if given_up else "pending")
    assert run.end_reason == ("worker_lost" if given_up else "")


def test_a_run_that_is_given_up_keeps_what_it_had_said(settings: Settings) -> None:
    # given a run with a recorded step, and a half said one that only its log knows
    settings.RUN_MAX_ATTEMPTS = 1
    run = silent(31, step_count=1)
    StepFactory(run=run)
    whole = [*journal.transcript_of(run, journal.recorded_steps(run.pk)).replay()]
    half = [chunks.start_step(), chunks.opened("text", "text-1-0"), chunks.delta("text", "text-1-0", " and half")]
    eventlog.write_whole(run.pk, 1, [*whole, *half])
    # when the sweep ends it
    sweep.sweep(window_seconds=30)
    # then row, message and log agree, under the attempt that only settled
    audit(run)
    assert (run.attempt, text(run)) == (2, "hello and half")
    assert run.error


def test_a_sweep_that_died_between_taking_and_settling_loses_no_text(settings: Settings) -> None:
    settings.RUN_MAX_ATTEMPTS = 1
    run = silent(31)
    half = [
        start_chunk(run),
        chunks.start_step(),
        chunks.opened("text", "text-0-0"),
        chunks.delta("text", "text-0-0", "half"),
    ]
    eventlog.write_whole(run.pk, 1, half)
    taken = lifecycle.take_over(run, "sweep")
    assert taken is not None
    eventlog.fence(run.pk, taken.attempt)
    Run.objects.filter(pk=run.pk).update(heartbeat_at=Now() - timedelta(seconds=31))
    sweep.sweep(window_seconds=30)
    audit(run)
    assert text(run) == "half"


def test_a_broker_that_is_back_is_sent_to_at_the_next_sweep(monkeypatch: pytest.MonkeyPatch, sent: list[Any]) -> None:
    run = RunFactory(send_count=5)
    Run.objects.filter(pk=run.pk).update(sent_at=Now() - timedelta(hours=1))
    with monkeypatch.context() as patch:
        patch.setattr(sweep.dispatch, "send", lambda *_: False)
        sweep.sweep()
    assert sweep.sweep().sent == [run.pk]


def test_a_silent_run_that_was_to_stop_is_stopped() -> None:
    run = silent(31)
    lifecycle.request_stop(run.pk, None, "user")
    sweep.sweep(window_seconds=30)
    assert (audit(run).status, run.end_reason, run.error) == ("aborted", "stopped", "")


def test_a_run_that_cannot_be_settled_does_not_keep_the_others(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.RUN_MAX_ATTEMPTS = 1
    poison, other = silent(40), silent(35)
    settle = lifecycle.settle

    def poisoned(run: Run, *rest: Any) -> Run:
        if run.pk == poison.pk:
            raise RuntimeError
        return settle(run, *rest)

    monkeypatch.setattr(lifecycle, "settle", poisoned)
    assert sweep.sweep(window_seconds=30).ended == [other.pk]


@pytest.mark.parametrize(
    ("count", "ago", "again"),
    [(1, 9, False), (1, 11, True), (2, 19, False), (2, 21, True), (30, 600, False), (30, 650, True), (0, None, True)],
)
def test_a_pending_run_is_sent_again_after_a_pause_that_doubles(
    count: int, ago: float | None, again: bool, sent: list[Any], settings: Settings
) -> None:
    settings.RUN_SWEEP_SECONDS = 10.0
    run = RunFactory(send_count=count)
    Run.objects.filter(pk=run.pk).update(sent_at=None if ago is None else Now() - timedelta(seconds=ago))
    assert sweep.sweep().sent == ([run.pk] if again else [])
    assert sent == ([(run.pk, 1)] if again else [])
    run.refresh_from_db()
    assert run.send_count == count + again


def test_a_run_whose_owner_is_gone_is_stopped() -> None:
    run = run_in("running")
    Run.objects.filter(pk=run.pk).update(created_by=None)
    sweep.sweep()
    run.refresh_from_db()
    assert run.stop_source == "orphaned"


def test_a_sweep_of_many_takes_as_many_queries_as_of_few(django_assert_max_num_queries: DjangoAssertNumQueries) -> None:
    for _ in range(40):
        silent(31)
    with django_assert_max_num_queries(14):
        assert len(sweep.sweep(window_seconds=30).rescued) == 40


def test_a_broker_that_hangs_holds_a_sweep_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[Any] = []
    monkeypatch.setattr(sweep.dispatch, "send", lambda *held: tries.append(held))
    runs = {silent(31).pk for _ in range(5)}
    assert set(sweep.sweep(window_seconds=30).rescued) == runs
    assert len(tries) == 1


def test_a_process_that_was_frozen_does_not_judge(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    settings.RUN_STALE_SECONDS = 30.0
    now = 1000.0
    monkeypatch.setattr("runs.witness.time.monotonic", lambda: now)
    witness = Witness()
    for _ in range(10):
        witness.reached()
        now += 5.0
    assert witness.can_judge(30.0)
    now += 40.0  # it was frozen, and who knows who else
    assert not witness.can_judge(30.0)
    witness.reached()
    assert not witness.can_judge(30.0)


def test_a_process_judges_after_a_whole_window_of_seeing_the_database() -> None:
    witness = Witness()
    assert not witness.can_judge(0.0)
    witness.reached()
    assert witness.can_judge(0.0)
    assert not witness.can_judge(60.0)
    witness.missed()
    assert not witness.can_judge(0.0)


def test_a_worker_whose_clock_is_wrong_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    live = silent(5)
    monkeypatch.setattr(timezone, "now", lambda: live.heartbeat_at + timedelta(minutes=10))
    assert sweep.sweep(window_seconds=30).rescued == []
