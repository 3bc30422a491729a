"""One attempt in a real worker process's shape: how each way a run can end leaves row, message and log."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from pytest_django import Settings

from agents.llm import CallPiece, Echo, Finished, ModelError, Said, Usage
from agents.tools import Repeat, tool
from runs import executor, lifecycle, stop, sweep
from runs.models import Run, ToolCall
from runs.tools import TOOLS
from runs.worker import Worker
from tests.factories import MessageFactory, RunFactory
from tests.runs.conftest import WAIT, Model, audit, begin, ended, logged, says, text, until

pytestmark = pytest.mark.django_db(transaction=True)

CALLS = Finished("tool_calls", Usage(3, 2), "demo")


@pytest.fixture
def run() -> Run:
    question = MessageFactory()
    return RunFactory(chat=question.chat)


def test_a_run_ends_with_what_the_model_said(worker: Worker, model: Model, run: Run) -> None:
    model.will(says("hel", "lo"))
    worker.execute(run.pk, 1)
    audit(run)
    assert (run.status, run.end_reason, text(run)) == ("succeeded", "completed", "hello")
    assert (run.step_count, run.input_tokens, run.output_tokens) == (1, 3, 2)
    assert run.message is not None
    assert run.message.metadata["usage"] == {
        "inputTokens": 3, "outputTokens": 2, "costUsd": 0.0, "estimated": False,
    }  # fmt: skip


def test_the_same_message_three_times_is_one_execution(worker: Worker, model: Model, run: Run) -> None:
    model.will([Said("text", "one"), WAIT])
    first = begin(worker, run)
    assert model.reached.wait(5)
    ended(begin(worker, run))
    stop.request_stop(run.pk, None, "user")
    ended(first)
    worker.execute(run.pk, 1)
    assert len(model.requests) == 1
    audit(run)


def test_a_loop_that_does_not_turn_gives_its_messages_back(
    worker: Worker, model: Model, run: Run, sent: list[Any]
) -> None:
    go_on = threading.Event()
    worker._loop.call_soon_threadsafe(go_on.wait)
    ended(begin(worker, run))
    assert sent == [(run.pk, 1)]
    go_on.set()
    time.sleep(0.3)
    assert model.requests == []
    # once it turns it works again
    model.will(says("hello"))
    worker.execute(run.pk, 1)
    audit(run)
    assert run.status == "succeeded"


def test_what_a_model_thought_before_a_call_it_reads_again_in_the_next_attempt(
    make_worker: Callable[[], Worker], model: Model, run: Run
) -> None:
    thought = Echo({"thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}]}, {0: {"sign": "t"}})
    end = Finished("tool_calls", Usage(3, 2), "demo", thought)
    model.will([CallPiece(0, "calculate", '{"expression": "1+1"}'), end], [WAIT], says("2"))
    first, second = make_worker(), make_worker()
    thread = begin(first, run)
    assert model.reached.wait(5)
    first.close()
    ended(thread)
    second.execute(run.pk, 2)
    audit(run)
    for request in model.requests[1:]:
        called, result = request.messages[-2:]
        assert called["thinking_blocks"] == thought.message["thinking_blocks"]
        assert called["tool_calls"][0]["sign"] == "t"
        assert (result["role"], result["content"]) == ("tool", "2")


def test_what_a_model_thought_stays_in_its_turn_and_out_of_all_that_is_shown(
    worker: Worker, model: Model, run: Run
) -> None:
    thought = Echo({"thinking_blocks": [{"type": "thinking", "signature": "canary"}]}, {0: {"sign": "canary"}})
    end = Finished("tool_calls", Usage(3, 2), "demo", thought)
    model.will([CallPiece(0, "calculate", '{"expression": "1+1"}'), end], says("2"), says("again"))
    worker.execute(run.pk, 1)
    audit(run)
    assert "canary" in str(model.requests[1].messages)
    assert run.message is not None
    assert "canary" not in str([logged(run), run.message.parts, run.message.metadata])
    question = MessageFactory(chat=run.chat)
    following = RunFactory(chat=question.chat)
    worker.execute(following.pk, 1)
    audit(following)
    assert "call_" in str(model.requests[2].messages)
    assert "canary" not in str(model.requests[2].messages)


def test_where_a_model_is_not_to_be_had_the_next_one_answers_and_the_steps_say_so(
    worker: Worker, model: Model, run: Run
) -> None:
    Run.objects.filter(pk=run.pk).update(model="openai/a", role_settings={"fallbacks": ["openai/b"]})
    gone = ModelError("not_found", "The model's provider does not know this model.")
    model.will([gone], [Said("text", "ok"), Finished("stop", Usage(3, 2), "b-2026")])
    worker.execute(run.pk, 1)
    audit(run)
    assert run.status == "succeeded"
    assert [request.model for request in model.requests] == ["openai/a", "openai/b"]
    assert [step.model for step in run.steps.all()] == ["b-2026"]
    retries = [chunk["data"]["retry"] for chunk in logged(run) if "retry" in chunk.get("data", {})]
    assert [retry["reason"] for retry in retries] == ["not_found"]


@pytest.mark.parametrize("said", [[], [Said("text", "half an ans")]], ids=["before the first byte", "in mid-answer"])
def test_a_stop_aborts_and_keeps_what_was_said(worker: Worker, model: Model, run: Run, said: list[Any]) -> None:
    model.will([*said, WAIT])
    thread = begin(worker, run)
    assert model.reached.wait(5)
    stop.request_stop(run.pk, None, "user")
    ended(thread)
    assert model.open == 0
    audit(run)
    assert (run.status, run.end_reason, run.error) == ("aborted", "stopped", "")
    assert text(run) == "".join(piece.text for piece in said)
    assert [chunk["type"] for chunk in logged(run)][-3:] == ["message-metadata", "abort", "finish"]


def test_a_stop_whose_message_is_lost_lands_with_the_heartbeat(
    worker: Worker, model: Model, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stop, "_publish", lambda _: None)
    model.will([Said("text", "one"), WAIT])
    thread = begin(worker, run)
    assert model.reached.wait(5)
    stop.request_stop(run.pk, None, "user")
    ended(thread, 1.0)
    assert audit(run).status == "aborted"


def test_garbage_on_the_stop_channel_stops_nobody(worker: Worker, model: Model, run: Run, redis: Any) -> None:
    model.will([Said("text", "one"), WAIT])
    thread = begin(worker, run)
    assert model.reached.wait(5)
    for garbage in ("", "{", "[]", "null", '{"run_id": 1}', '{"run_id": "x"}', "\0", "[" * 100_000):
        redis.publish(stop.CHANNEL, garbage)
    # a forged message for a run that nobody asked to stop
    redis.publish(stop.CHANNEL, f'{{"run_id": "{run.pk}"}}')
    thread.join(0.5)
    assert thread.is_alive()
    stop.request_stop(run.pk, None, "user")
    ended(thread)


@pytest.mark.parametrize("said", [[], [Said("text", "half")]], ids=["before anything", "in mid-answer"])
def test_a_provider_error_fails_the_run_with_words_for_people(
    worker: Worker, model: Model, run: Run, said: list[Any]
) -> None:
    model.will([*said, ModelError("authentication", "The model's provider refused our credentials.")])
    worker.execute(run.pk, 1)
    audit(run)
    assert (run.status, run.end_reason) == ("failed", "provider_error")
    assert run.error == "The model's provider refused our credentials."
    assert text(run) == "".join(piece.text for piece in said)
    assert {"type": "error", "errorText": run.error} in logged(run)


def test_an_error_of_ours_fails_the_run_at_once(worker: Worker, model: Model, run: Run) -> None:
    model.will([Said("text", "half"), ZeroDivisionError("secret detail")])
    worker.execute(run.pk, 1)
    audit(run)
    assert (run.status, run.end_reason, text(run)) == ("failed", "internal_error", "half")
    assert "secret" not in str(run.message.parts) + run.error  # type: ignore[union-attr]


def test_a_run_has_a_deadline_over_all_its_attempts(worker: Worker, model: Model, run: Run) -> None:
    Run.objects.filter(pk=run.pk).update(max_seconds=0.3)
    model.will([Said("text", "half"), WAIT])
    ended(begin(worker, run), 2)
    audit(run)
    assert (run.status, run.end_reason, text(run)) == ("failed", "timeout", "half")


def test_a_holder_that_lost_its_lease_writes_nothing_and_hangs_up(worker: Worker, model: Model, run: Run) -> None:
    model.will([Said("text", "one"), WAIT])
    thread = begin(worker, run)
    assert model.reached.wait(5)
    until(lambda: bool(logged(run)))
    lifecycle.rescue(Run.objects.filter(pk=run.pk), 1)
    before = Run.objects.filter(pk=run.pk).values().get()
    ended(thread, 2)
    assert model.open == 0
    assert Run.objects.filter(pk=run.pk).values().get() == before


def test_the_next_attempt_may_come_to_the_worker_that_does_not_know_yet_that_it_lost_the_last(
    worker: Worker, model: Model, run: Run
) -> None:
    model.will([Said("text", "one"), WAIT], says("two"))
    thread = begin(worker, run)
    assert model.reached.wait(5)
    lifecycle.rescue(Run.objects.filter(pk=run.pk), 1)
    worker.execute(run.pk, 2)
    ended(thread, 2)
    audit(run)
    assert (run.status, text(run)) == ("succeeded", "two")


def test_a_deleted_run_is_let_go(worker: Worker, model: Model, run: Run) -> None:
    model.will([Said("text", "one"), WAIT])
    thread = begin(worker, run)
    assert model.reached.wait(5)
    run.chat.delete()
    ended(thread, 2)
    assert model.open == 0


def test_a_settle_that_keeps_failing_leaves_one_line_and_the_run_to_the_sweep(
    worker: Worker, model: Model, run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("disk full")

    model.will(says("all of it"))
    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        patch.setattr(lifecycle, "settle", fail)
        patch.setattr(executor, "SETTLE_SECONDS", 0.5)
        worker.execute(run.pk, 1)
    (line,) = [record.getMessage() for record in caplog.records if "NON-TERMINAL" in record.getMessage()]
    assert str(run.pk) in line
    assert str(run.chat_id) in line
    assert "disk full" in line
    run.refresh_from_db()
    assert run.status == "running"
    # when the sweep finds it, another attempt settles what is recorded, without another model call
    assert sweep.sweep(window_seconds=sweep.NO_WINDOW).rescued == [run.pk]
    worker.execute(run.pk, 2)
    audit(run)
    assert (run.status, text(run), len(model.requests)) == ("succeeded", "all of it", 1)


def test_a_shutdown_hands_the_run_over_and_another_worker_finishes_it(
    make_worker: Callable[[], Worker], model: Model, run: Run, sent: list[Any]
) -> None:
    first, second = make_worker(), make_worker()
    model.will([Said("text", "half"), WAIT], says("the whole"))
    thread = begin(first, run)
    assert model.reached.wait(5)
    first.close()
    ended(thread, 1)
    run.refresh_from_db()
    assert (run.status, run.attempt, run.lost_attempts) == ("pending", 2, 0)
    assert sent == [(run.pk, 2)]
    # and a message that comes too late goes on unclaimed
    first.execute(run.pk, 2)
    assert sent == [(run.pk, 2)] * 2
    second.execute(run.pk, 2)
    audit(run)
    assert (run.status, text(run)) == ("succeeded", "the whole")


def test_a_stopped_run_is_not_handed_over(make_worker: Callable[[], Worker], model: Model, run: Run) -> None:
    worker = make_worker()
    model.will([Said("text", "half"), WAIT])
    thread = begin(worker, run)
    assert model.reached.wait(5)
    lifecycle.request_stop(run.pk, None, "user")  # the message is lost, the shutdown comes before the heartbeat
    worker.close()
    ended(thread, 2)
    assert audit(run).end_reason == "stopped"


def test_a_shutdown_waits_for_the_outcome_of_a_running_tool(
    make_worker: Callable[[], Worker], model: Model, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, finish = threading.Event(), threading.Event()

    @tool(repeat=Repeat.ONCE)
    def slow() -> str:
        """Takes a moment."""
        running.set()
        finish.wait(5)
        return "done after all"

    monkeypatch.setitem(TOOLS, "slow", slow)
    first, second = make_worker(), make_worker()
    model.will([CallPiece(0, "slow", "{}"), CALLS], says("finished"))
    thread = begin(first, run)
    assert running.wait(5)
    first.close()
    threading.Timer(0.2, finish.set).start()
    ended(thread, 2)
    assert ToolCall.objects.get(run=run).output == "done after all"
    second.execute(run.pk, 2)
    audit(run)
    assert model.requests[-1].messages[-1]["content"] == "done after all"


def test_a_run_asked_to_stop_before_its_claim_never_reaches_the_provider(
    worker: Worker, model: Model, run: Run
) -> None:
    stop.request_stop(run.pk, None, "user")
    worker.execute(run.pk, 1)
    assert model.requests == []
    audit(run)


def test_a_worker_whose_crash_loses_the_log_goes_on_from_the_journal(
    make_worker: Callable[[], Worker], model: Model, run: Run, redis: Any
) -> None:
    # given a first step with a tool, recorded, and a second one in mid-answer
    first, second = make_worker(), make_worker()
    call = CallPiece(0, "calculate", '{"expression": "6*7"}')
    model.will([Said("text", "let me see"), call, CALLS], [Said("text", "for"), WAIT], says("forty-two"))
    thread = begin(first, run)
    assert model.reached.wait(5)
    # when its worker is thought dead and Redis loses everything
    redis.flushdb()
    sweep.sweep(window_seconds=sweep.NO_WINDOW)
    ended(thread, 2)
    second.execute(run.pk, 2)
    # then nothing finished is repeated, nothing half finished remains
    audit(run)
    assert text(run) == "let me seeforty-two"
    assert len(model.requests) == 3
    assert run.step_count == 2


def test_a_chat_goes_on_after_a_run_that_ended_badly(
    worker: Worker, model: Model, run: Run, settings: Settings
) -> None:
    model.will([CallPiece(0, "calculate", '{"expr'), ModelError("connection", "gone")], says("fine"))
    worker.execute(run.pk, 1)
    assert audit(run).status == "failed"
    MessageFactory(chat=run.chat)
    following = RunFactory(chat=run.chat)
    worker.execute(following.pk, 1)
    assert audit(following).status == "succeeded"
    # the half-open call was settled for the reader, and the provider sees it answered
    (question, call, result, again) = model.requests[-1].messages[1:]
    assert [question["role"], call["role"], result["role"], again["role"]] == ["user", "assistant", "tool", "user"]


def test_a_stop_between_two_attempts_keeps_what_was_recorded(worker: Worker, model: Model, run: Run) -> None:
    # given a run with a recorded step and its tool's outcome, handed over and not claimed again yet
    call = CallPiece(0, "calculate", '{"expression": "6*7"}')
    model.will([Said("text", "let me see"), call, CALLS], [Said("text", "for"), WAIT])
    thread = begin(worker, run)
    assert model.reached.wait(5)
    worker.close()
    ended(thread, 2)
    # when it is stopped while it is pending
    stop.request_stop(run.pk, None, "user")
    # then message and log have the step, with its outcome
    audit(run)
    assert run.message is not None
    assert [part.get("output") for part in run.message.parts if part["type"] == "tool-calculate"] == ["42"]
    assert text(run) == "let me see"


def test_a_shutdown_that_overtakes_a_run_on_its_way_in_sends_it_on(
    worker: Worker, model: Model, run: Run, sent: list[Any]
) -> None:
    # given a loop too busy to take the run in before the shutdown begins
    worker._loop.call_soon_threadsafe(time.sleep, 0.3)
    thread = begin(worker, run)
    time.sleep(0.1)
    worker.close()
    ended(thread, 3)
    run.refresh_from_db()
    assert run.status == "pending"
    assert sent[-1][0] == run.pk


def test_a_cancel_that_nobody_asked_for_is_no_stop(worker: Worker, model: Model, run: Run) -> None:
    model.will([Said("text", "half"), asyncio.CancelledError()])
    worker.execute(run.pk, 1)
    assert (audit(run).status, run.end_reason) == ("failed", "internal_error")


def test_a_stop_that_lands_while_an_outcome_is_recorded_does_not_hide_it(
    worker: Worker, model: Model, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = threading.Event()
    record = lifecycle.record_outcome

    def slow(*args: Any) -> None:
        recording.set()
        time.sleep(0.3)
        record(*args)

    monkeypatch.setattr(lifecycle, "record_outcome", slow)
    model.will([CallPiece(0, "calculate", '{"expression": "6*7"}'), CALLS], says("unheard"))
    thread = begin(worker, run)
    assert recording.wait(5)
    stop.request_stop(run.pk, None, "user")
    ended(thread)
    audit(run)
    assert run.message is not None
    assert [part.get("output") for part in run.message.parts if part["type"] == "tool-calculate"] == ["42"]
    assert run.message.metadata["usage"]["inputTokens"] == run.input_tokens == 3
