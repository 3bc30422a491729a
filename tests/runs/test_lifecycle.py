"""Every verb against every status, and the races between them."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from django.db import IntegrityError, connection, transaction

from agents.llm import Usage
from agents.steps import Call, ModelStep, Outcome
from runs import heartbeat, lifecycle
from runs.ending import COMPLETED
from runs.errors import LeaseLost
from runs.models import Run, Step, ToolCall
from tests.factories import RunFactory, StepFactory, ToolCallFactory, run_in

pytestmark = pytest.mark.django_db
several_connections = pytest.mark.django_db(transaction=True)

STATUSES = ["pending", "running", "succeeded", "failed", "aborted"]


def step(index: int = 0, calls: tuple[Call, ...] = ()) -> ModelStep:
    parts = [{"type": "step-start"}, {"type": "text", "text": "hello", "state": "done"}]
    return ModelStep(index, parts, calls, Usage(10, 5), "demo", "stop", datetime.now(UTC))


def settle(run: Run) -> Any:
    return lifecycle.settle(run, COMPLETED, [{"type": "text", "text": "done", "state": "done"}], {})


def row(run: Run) -> dict[str, Any]:
    return Run.objects.filter(pk=run.pk).values().get()


VERBS: dict[str, tuple[Callable[[Run], Any], set[str]]] = {
    "claim": (lambda run: lifecycle.claim(run.pk, run.attempt, uuid4(), "w"), {"pending"}),
    "record_step": (lambda run: lifecycle.record_step(run.pk, run.attempt, step()), {"running"}),
    "record_outcome": (lambda run: lifecycle.record_outcome(run.pk, run.attempt, Outcome("x", output=1)), {"running"}),
    "settle": (settle, {"running"}),
    "hand_over": (lambda run: lifecycle.hand_over(run.pk, run.attempt), {"running"}),
    "renew": (lambda run: lifecycle.renew(run.pk, run.attempt), {"running"}),
    "request_stop": (lambda run: lifecycle.request_stop(run.pk, None, "user"), {"pending", "running"}),
    "rescue": (lambda run: lifecycle.rescue(Run.objects.filter(pk=run.pk), 10), {"running"}),
    "take_over": (lambda run: lifecycle.take_over(run, "sweep"), {"running"}),
    "send_again": (lambda run: lifecycle.send_again(Run.objects.filter(pk=run.pk), 10), {"pending"}),
    "note_unsent": (lambda run: lifecycle.note_unsent([(run.pk, run.attempt)]), {"pending"}),
    "beat": (lambda run: heartbeat.beat([(run.pk, run.attempt)]), {"running"}),
}


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_changes_the_row_from_its_statuses_only(verb: str, status: str) -> None:
    run = run_in(status)
    before = row(run)
    act, legal = VERBS[verb]
    try:
        act(run)
    except LeaseLost:
        assert status not in legal
    assert (row(run) != before) == (status in legal)


@pytest.mark.parametrize("verb", ["record_step", "record_outcome", "settle", "renew"])
def test_a_rescued_attempt_cannot_write(verb: str) -> None:
    # given a worker whose run was rescued and claimed by another
    run = run_in("running")
    lifecycle.rescue(Run.objects.filter(pk=run.pk), 1)
    assert lifecycle.claim(run.pk, 2, uuid4(), "other")
    before = row(run)
    # when it writes as the attempt it was
    with pytest.raises(LeaseLost):
        VERBS[verb][0](run)
    # then nothing changed
    assert row(run) == before
    assert not Step.objects.filter(run=run).exists()


def test_a_message_of_an_old_attempt_claims_nothing() -> None:
    run = run_in("running")
    lifecycle.rescue(Run.objects.filter(pk=run.pk), 1)
    assert lifecycle.claim(run.pk, 1, uuid4(), "late") is None


def test_a_claim_whose_commit_was_not_heard_of_is_repeated_with_its_token() -> None:
    run, token = RunFactory(), uuid4()
    first = lifecycle.claim(run.pk, 1, token, "w")
    second = lifecycle.claim(run.pk, 1, token, "w")
    assert first is not None
    assert second is not None
    assert second.started_at == first.started_at
    assert lifecycle.claim(run.pk, 1, uuid4(), "other") is None


@several_connections
def test_of_twenty_claims_at_once_one_wins() -> None:
    run = RunFactory()
    assert len([won for won in at_once(20, lambda: lifecycle.claim(run.pk, 1, uuid4(), "w")) if won]) == 1


def test_a_step_recorded_twice_counts_once() -> None:
    run = run_in("running")
    call = Call("c1", "current_time", {}, "safe")
    lifecycle.record_step(run.pk, 1, step(calls=(call,)))
    lifecycle.record_step(run.pk, 1, step(calls=(call,)))
    run.refresh_from_db()
    assert (run.step_count, run.input_tokens, run.output_tokens) == (1, 10, 5)
    assert ToolCall.objects.filter(run=run).count() == 1


def test_the_first_outcome_of_a_call_stays() -> None:
    run = run_in("running")
    call = ToolCallFactory(step=StepFactory(run=run), call_id="c1")
    lifecycle.record_outcome(run.pk, 1, Outcome("c1", output="first"))
    lifecycle.record_outcome(run.pk, 1, Outcome("c1", error="second"))
    call.refresh_from_db()
    assert (call.state, call.output, call.error) == ("done", "first", "")


def test_a_run_settled_twice_keeps_its_first_end() -> None:
    run = run_in("running")
    first = settle(run)
    # the reply to COMMIT was lost: the repeat finds its own work
    assert settle(run).finished_at == first.finished_at
    # and another end is refused
    with pytest.raises(LeaseLost):
        lifecycle.settle(run, lifecycle.stopped("user"), [], {})
    run.message.refresh_from_db()
    assert run.message.status == "completed"


def test_row_and_message_are_settled_together_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_in("running")

    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(lifecycle, "_write_message", fail)
    with pytest.raises(RuntimeError):
        settle(run)
    run.refresh_from_db()
    assert run.status == "running"


def test_a_pending_run_is_aborted_on_the_spot_with_its_message() -> None:
    run = RunFactory()
    answer = lifecycle.request_stop(run.pk, run.created_by_id, "user")
    assert answer is not None
    assert answer.took_effect
    assert (answer.run.status, answer.run.end_reason, answer.run.attempt) == ("aborted", "stopped", 2)
    run.message.refresh_from_db()
    assert (run.message.status, run.message.parts) == ("aborted", [])
    assert run.message.metadata["run"]["endReason"] == "stopped"


def test_a_running_run_is_asked_once() -> None:
    run = run_in("running")
    first, second = (lifecycle.request_stop(run.pk, None, "user") for _ in range(2))
    assert first is not None
    assert second is not None
    assert (first.took_effect, first.run.status) == (True, "running")
    assert (second.took_effect, second.run.status) == (False, "running")


@several_connections
def test_no_stop_falls_between_a_claim_and_a_stop() -> None:
    for _ in range(25):
        run = RunFactory()
        results = at_once(
            2,
            lambda run=run: lifecycle.claim(run.pk, 1, uuid4(), "w"),
            lambda run=run: lifecycle.request_stop(run.pk, None, "user"),
        )
        run.refresh_from_db()
        # either the claim came first and its holder reads the request, or the run was aborted and nobody holds it
        assert run.stop_requested_at is not None
        assert run.status == ("running" if any(isinstance(result, Run) for result in results) else "aborted")


def test_a_run_that_is_to_stop_is_not_handed_over() -> None:
    run = run_in("running")
    lifecycle.request_stop(run.pk, None, "user")
    assert lifecycle.hand_over(run.pk, 1) is False
    run.refresh_from_db()
    assert (run.status, run.attempt) == ("running", 1)


def test_a_hand_over_costs_no_attempt_and_a_rescue_does() -> None:
    run = run_in("running")
    assert lifecycle.hand_over(run.pk, 1) is True
    assert lifecycle.hand_over(run.pk, 1) is True  # the reply was lost
    run.refresh_from_db()
    assert (run.status, run.attempt, run.lost_attempts) == ("pending", 2, 0)
    lifecycle.claim(run.pk, 2, uuid4(), "w")
    assert lifecycle.rescue(Run.objects.filter(pk=run.pk), 1) == [(run.pk, 3)]
    run.refresh_from_db()
    assert run.lost_attempts == 1


def test_a_hand_over_after_a_rescue_changes_nothing() -> None:
    run = run_in("running")
    lifecycle.rescue(Run.objects.filter(pk=run.pk), 1)
    lifecycle.claim(run.pk, 2, uuid4(), "other")
    before = row(run)
    lifecycle.hand_over(run.pk, 1)  # whether it was this or a rescue: the next attempt is on its way
    assert row(run) == before


@several_connections
def test_two_rescues_at_once_take_each_run_once() -> None:
    runs = [run_in("running") for _ in range(30)]
    chosen = Run.objects.filter(pk__in=[run.pk for run in runs])
    rescued = [pair for batch in at_once(4, lambda: lifecycle.rescue(chosen, 100)) for pair in batch]
    assert sorted(rescued) == sorted((run.pk, 2) for run in runs)


@several_connections
def test_one_locked_row_does_not_hold_up_the_other_heartbeats() -> None:
    runs = [run_in("running") for _ in range(3)]
    before = {run.pk: run.heartbeat_at for run in runs}
    with transaction.atomic():
        Run.objects.select_for_update().get(pk=runs[0].pk)
        (beat,) = at_once(1, lambda: heartbeat.beat([(run.pk, run.attempt) for run in runs]))
    # the locked one is not thought lost either
    assert beat.lost == set()
    after = dict(Run.objects.values_list("pk", "heartbeat_at"))
    assert [after[run.pk] > before[run.pk] for run in runs] == [False, True, True]


def test_a_heartbeat_tells_of_stops_and_of_lost_leases() -> None:
    stopping, lost, gone = run_in("running"), run_in("running"), uuid4()
    lifecycle.request_stop(stopping.pk, None, "user")
    lifecycle.rescue(Run.objects.filter(pk=lost.pk), 1)
    beat = heartbeat.beat([(stopping.pk, 1), (lost.pk, 1), (gone, 1)])
    assert beat.stopping == {(stopping.pk, 1)}
    assert beat.lost == {(lost.pk, 1), (gone, 1)}


def test_a_run_that_moved_on_is_not_taken_over() -> None:
    run = run_in("running")
    lifecycle.renew(run.pk, 1)  # its worker woke up since it was seen
    assert lifecycle.take_over(run, "sweep") is None


def test_a_chat_has_one_active_run() -> None:
    run = RunFactory()
    with pytest.raises(IntegrityError, match="one_active_run_per_chat"):
        RunFactory(chat=run.chat)


def at_once(times: int, *acts: Callable[[], Any]) -> list[Any]:
    """Every act on a thread of its own, all let go by one barrier; acts repeat until there are enough of them."""
    barrier, results = threading.Barrier(max(times, len(acts))), []

    def run(act: Callable[[], Any]) -> None:
        try:
            connection.ensure_connection()
            barrier.wait()
            results.append(act())
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(acts[number % len(acts)],)) for number in range(barrier.parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == len(threads)
    return results
