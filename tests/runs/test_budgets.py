"""Which limit ends a run, how that looks in row, message and log, and what is counted against it."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db.models.functions import Now
from pytest_django import Settings

from agents import chunks
from agents.llm import CallPiece, Finished, ModelError, Said, Usage
from agents.loop import NO_TOOLS_LEFT
from agents.tools import Repeat, tool
from chat.models import Workspace
from runs import eventlog, lifecycle, stop, sweep
from runs.allowance import reached_today
from runs.ending import start_chunk
from runs.executor import Interrupt
from runs.models import Run
from runs.roles import RoleSettings
from runs.tools import TOOLS
from runs.worker import Worker
from tests.factories import ChatFactory, MessageFactory, RunFactory, run_in
from tests.runs.conftest import WAIT, Model, audit, begin, ended, logged, says, text, until

pytestmark = pytest.mark.django_db(transaction=True)

CALL = [
    CallPiece(0, "calculate", '{"expression": "6*7"}'),
    Finished("tool_calls", Usage(70, 30, 0, Decimal("0.25")), "demo"),
]


@pytest.fixture
def run() -> Run:
    return RunFactory(chat=MessageFactory().chat)


def limit(run: Run, **limits: Any) -> None:
    Run.objects.filter(pk=run.pk).update(**limits)


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"max_steps": 2}, "The run reached its limit of 2 steps."),
        ({"max_tokens": 100}, "The run reached its limit of 100 tokens."),
        ({"max_cost_usd": "0.25"}, "The run reached its limit of $0.25."),
    ],
)
def test_a_run_at_its_limit_answers_with_what_it_has_and_says_which_limit_it_was(
    worker: Worker, model: Model, run: Run, limits: dict[str, Any], told: str
) -> None:
    limit(run, **limits)
    model.will(CALL, says("it is 42"))
    worker.execute(run.pk, 1)
    audit(run)
    assert (run.status, run.end_reason, run.error) == ("succeeded", "budget", told)
    assert text(run) == "it is 42"
    assert [bool(request.tools) for request in model.requests] == [True, False]
    assert NO_TOOLS_LEFT in model.requests[1].messages[0]["content"]
    # a success has no error chunk, whatever the row says
    assert {"error", "abort"}.isdisjoint(chunk["type"] for chunk in logged(run))


def test_a_run_below_its_limits_is_complete(worker: Worker, model: Model, run: Run) -> None:
    limit(run, max_steps=3, max_tokens=101, max_cost_usd="0.26")
    model.will(CALL, says("it is 42"))
    worker.execute(run.pk, 1)
    audit(run)
    assert (run.status, run.end_reason, run.error) == ("succeeded", "completed", "")


def test_a_run_that_could_not_answer_in_its_last_step_failed(worker: Worker, model: Model, run: Run) -> None:
    limit(run, max_steps=2)
    model.will(CALL, CALL)
    worker.execute(run.pk, 1)
    audit(run)
    assert (run.status, run.end_reason, run.error) == ("failed", "budget", "The run reached its limit of 2 steps.")
    assert {"type": "error", "errorText": run.error} in logged(run)


def test_a_run_out_of_time_says_how_much_it_had(worker: Worker, model: Model, run: Run) -> None:
    limit(run, max_seconds=0.5)
    model.will([Said("text", "half"), WAIT])
    ended(begin(worker, run), 3)
    audit(run)
    assert (run.status, run.end_reason, text(run)) == ("failed", "timeout", "half")
    assert run.error == "The run reached its time limit of 0.5 seconds."


def test_a_run_nearly_out_of_time_answers_with_what_it_has(
    worker: Worker, model: Model, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    @tool(repeat=Repeat.SAFE)
    def long() -> str:
        """Takes all but a tenth of the time."""
        (execution,) = worker._live.values()
        execution._budget.deadline = worker._loop.time() + 10
        return "done"

    monkeypatch.setitem(TOOLS, "long", long)
    limit(run, max_seconds=100)
    model.will([CallPiece(0, "long", "{}"), CALL[-1]], says("it is done"))
    worker.execute(run.pk, 1)
    audit(run)
    assert (run.status, run.end_reason, text(run)) == ("succeeded", "timeout", "it is done")
    assert run.error == "The run reached its time limit of 100 seconds."
    assert [bool(request.tools) for request in model.requests] == [True, False]


def test_a_limit_counts_over_all_attempts(make_worker: Callable[[], Worker], model: Model, run: Run) -> None:
    # given a first attempt that used 100 tokens in a recorded step and about as many in the one it was handed over in
    limit(run, max_tokens=150)
    first, second = make_worker(), make_worker()
    recorded = [CALL[0], Finished("tool_calls", Usage(50, 50), "demo")]
    model.will(recorded, [Said("text", "y" * 400), WAIT], says("it is 42"))
    thread = begin(first, run)
    assert model.reached.wait(5)
    first.close()
    ended(thread)
    second.execute(run.pk, 2)
    audit(run)
    assert run.error == "The run reached its limit of 150 tokens."
    assert [bool(request.tools) for request in model.requests] == [True, True, False]


def test_an_attempt_that_begins_when_the_time_is_nearly_up_is_one_answer(
    worker: Worker, model: Model, run: Run
) -> None:
    limit(run, max_seconds=1000, started_at=Now() - timedelta(seconds=980))
    model.will(says("in short"))
    worker.execute(run.pk, 1)
    audit(run)
    assert (run.status, run.end_reason, text(run)) == ("succeeded", "timeout", "in short")
    assert not model.requests[0].tools


def test_an_answer_in_the_last_step_that_was_recorded_but_not_settled_is_known_as_one(
    worker: Worker, model: Model, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(run, max_steps=2)
    model.will(CALL, says("it is 42"))
    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, "settle", lambda *_: (_ for _ in ()).throw(lifecycle.LeaseLost))
        worker.execute(run.pk, 1)
    assert sweep.sweep(window_seconds=sweep.NO_WINDOW).rescued == [run.pk]
    worker.execute(run.pk, 2)
    audit(run)
    assert (run.status, run.end_reason, len(model.requests)) == ("succeeded", "budget", 2)


# What a person may use in a day


def allow(run: Run, **limits: Any) -> Workspace:
    Workspace.objects.filter(pk=run.workspace_id).update(**limits)
    return Workspace.objects.get(pk=run.workspace_id)


@pytest.mark.parametrize(
    ("limits", "told"),
    [({"daily_tokens": 1000}, "1,000 tokens a day"), ({"daily_cost_usd": "1.5"}, "$1.5 a day")],
)
def test_a_day_is_used_up_by_all_runs_of_the_person_in_the_workspace(
    run: Run, limits: dict[str, Any], told: str
) -> None:
    workspace, person = allow(run, **limits), run.created_by_id
    for chat in (run.chat, ChatFactory(created_by=run.created_by, workspace=workspace)):
        run_in("failed", chat=chat, input_tokens=300, output_tokens=199, cost_usd="0.74")
    assert reached_today(workspace, person) == ""
    # another person's, another workspace's and yesterday's count for nothing
    used = {"input_tokens": 5000, "cost_usd": 5}
    run_in("succeeded", chat=ChatFactory(workspace=workspace), **used)
    run_in("succeeded", chat=ChatFactory(created_by=run.created_by), **used)
    run_in("succeeded", chat=run.chat, created_at=Now() - timedelta(days=1), **used)
    assert reached_today(workspace, person) == ""
    # what is live counts as it goes
    limit(run, input_tokens=2, cost_usd="0.02")
    assert told in reached_today(workspace, person)
    assert reached_today(allow(run, daily_tokens=None, daily_cost_usd=None), person) == ""


def test_a_day_that_is_used_up_in_mid_run_leaves_it_one_step(worker: Worker, model: Model, run: Run) -> None:
    allow(run, daily_tokens=100)
    model.will(CALL, says("it is 42"))
    worker.execute(run.pk, 1)
    audit(run)
    assert (run.status, run.end_reason, text(run)) == ("succeeded", "budget", "it is 42")
    assert "100 tokens a day" in run.error


def test_a_day_that_was_used_up_before_the_run_was_claimed_asks_no_model(
    worker: Worker, model: Model, run: Run
) -> None:
    allow(run, daily_cost_usd="0.1")
    run_in("succeeded", chat=run.chat, cost_usd="0.1")
    worker.execute(run.pk, 1)
    audit(run)
    assert (run.status, run.end_reason, model.requests) == ("failed", "budget", [])
    assert "$0.1 a day" in run.error


def test_who_has_no_limit_a_day_is_not_counted(run: Run, django_assert_num_queries: Any) -> None:
    workspace = run.workspace
    with django_assert_num_queries(0):
        assert reached_today(workspace, run.created_by_id) == ""


# What an interrupted step used


def interrupted_by_a_stop(worker: Worker, run: Run) -> None:
    stop.request_stop(run.pk, None, "user")


def interrupted_by_the_deadline(worker: Worker, run: Run) -> None:
    (execution,) = worker._live.values()
    worker._loop.call_soon_threadsafe(execution.interrupt, Interrupt.TIMEOUT)


@pytest.mark.parametrize("interrupt", [interrupted_by_a_stop, interrupted_by_the_deadline])
def test_what_an_interrupted_step_used_is_estimated_and_counted(
    worker: Worker, model: Model, run: Run, interrupt: Callable[[Worker, Run], None]
) -> None:
    model.will(CALL, [Said("reasoning", "x" * 400), Said("text", "y" * 400), WAIT])
    thread = begin(worker, run)
    assert model.reached.wait(5)
    interrupt(worker, run)
    ended(thread)
    audit(run)
    assert run.usage_estimated
    assert run.output_tokens == pytest.approx(30 + 200, abs=5)
    # the question, the first step and what its tool answered
    assert run.input_tokens > 70 + 50
    assert run.message is not None
    assert run.message.metadata["usage"] == run.usage


def test_what_a_failed_step_used_is_estimated_if_anything_of_it_came(worker: Worker, model: Model, run: Run) -> None:
    gone = ModelError("connection", "gone")
    model.will([Said("text", "y" * 400), gone], [gone])
    worker.execute(run.pk, 1)
    audit(run)
    assert (run.usage_estimated, run.output_tokens) == (True, pytest.approx(100, abs=5))
    # and a provider that never answered has used nothing
    following = RunFactory(chat=run.chat)
    worker.execute(following.pk, 1)
    audit(following)
    assert (following.usage_estimated, following.input_tokens, following.output_tokens) == (False, 0, 0)


def test_what_a_step_used_that_a_hand_over_interrupted_is_counted_with_the_run(
    make_worker: Callable[[], Worker], model: Model, run: Run
) -> None:
    first, second = make_worker(), make_worker()
    model.will([Said("text", "y" * 400), WAIT], says("whole"))
    thread = begin(first, run)
    assert model.reached.wait(5)
    first.close()
    ended(thread)
    run.refresh_from_db()
    assert (run.output_tokens, run.usage_estimated) == (pytest.approx(100, abs=5), True)
    handed_over = run.output_tokens
    second.execute(run.pk, 2)
    audit(run)
    assert run.output_tokens == handed_over + 2


def test_what_a_dead_worker_s_step_used_is_counted_by_the_sweep_that_ends_the_run(
    settings: Settings, redis: Any, sent: list[Any]
) -> None:
    settings.RUN_MAX_ATTEMPTS = 1
    question = MessageFactory(parts=[{"type": "text", "text": "z" * 400}])
    run = run_in("running", chat=question.chat)
    half = [start_chunk(run), chunks.start_step(), chunks.opened("text", "text-0-0")]
    eventlog.write_whole(run.pk, 1, [*half, chunks.delta("text", "text-0-0", "y" * 400)])
    sweep.sweep(window_seconds=sweep.NO_WINDOW)
    audit(run)
    assert run.usage_estimated
    assert run.output_tokens == pytest.approx(100, abs=5)
    assert run.input_tokens > 100
    assert run.message is not None
    assert run.message.metadata["usage"] == run.usage


@pytest.mark.parametrize("verb", ["settle", "hand_over"])
def test_an_interrupted_step_is_counted_once_however_often_it_is_told(verb: str) -> None:
    run = run_in("running")
    used = Usage(10, 5, 1, Decimal("0.5"), estimated=True)
    for _ in range(2):
        if verb == "settle":
            lifecycle.settle(run, lifecycle.stopped("user"), [], {}, used)
        else:
            lifecycle.hand_over(run.pk, 1, used)
    run.refresh_from_db()
    assert run.used == used


# What a run began with


def test_a_run_keeps_the_settings_it_began_with(
    make_worker: Callable[[], Worker], model: Model, run: Run, settings: Settings
) -> None:
    began = RoleSettings(instructions="Be brief.", tools=["calculate"], fallbacks=["openai/b"], stall=7.5)
    stored = asdict(began) | {"model_settings": {"temperature": 0.5, "seed": 3}}
    limit(run, role_settings=stored, model="openai/own")
    first, second = make_worker(), make_worker()
    model.will([Said("text", "half"), WAIT], says("whole"))
    thread = begin(first, run)
    assert model.reached.wait(5)
    # when everything around it changes between its attempts
    settings.AGENT_MODEL = settings.AGENT_MODELS = "openai/other"
    settings.MODEL_STALL_SECONDS = 1.0
    first.close()
    ended(thread)
    second.execute(run.pk, 2)
    audit(run)
    for request in model.requests:
        assert (request.model, request.stall) == ("openai/own", 7.5)
        assert request.messages[0] == {"role": "system", "content": "Be brief."}
        assert [offered["function"]["name"] for offered in request.tools] == ["calculate"]
        assert request.settings.given == {"temperature": 0.5, "seed": 3}


def test_a_run_from_before_there_were_roles_has_the_usual_settings(
    worker: Worker, model: Model, run: Run, settings: Settings
) -> None:
    assert run.role_settings == {}
    model.will(says("hello"))
    worker.execute(run.pk, 1)
    (request,) = model.requests
    assert request.messages[0]["content"].startswith("You are a helpful assistant.")
    assert len(request.tools) == 3
    assert (request.stall, request.settings.given) == (settings.MODEL_STALL_SECONDS, {})
    until(lambda: audit(run).status == "succeeded")


def test_a_tool_that_is_gone_since_is_not_offered(worker: Worker, model: Model, run: Run) -> None:
    limit(run, role_settings={"tools": ["calculate", "gone"]})
    model.will(says("hello"))
    worker.execute(run.pk, 1)
    assert [offered["function"]["name"] for offered in model.requests[0].tools] == ["calculate"]
    audit(run)
