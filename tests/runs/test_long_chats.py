"""Chats that outgrow their model's window: every turn works, and nothing that mattered is forgotten.

Against the demo model over real HTTP, which counts by itself and refuses what is too long for it."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings
from django.db.models.functions import Now
from pytest_django import Settings

from agents.budget import Budget
from agents.clients import ModelClients
from agents.compaction import Summarised
from agents.demo.calls import Calls
from agents.demo.server import CALLS, start_server
from agents.llm import ModelError, Said, Usage
from agents.loop import Event, Turn, run_agent
from agents.steps import ModelStep, Outcome
from agents.tools import Repeat, ToolContext, tool
from chat.models import Chat, Message
from chat.parts import text_of
from runs import dispatch, journal, lifecycle, stop
from runs.dispatch import Start
from runs.ending import COMPLETED
from runs.errors import LeaseLost
from runs.models import Run, Step, Summary
from runs.tools import TOOLS
from runs.worker import Worker
from tests.factories import ChatFactory, MessageFactory, RunFactory
from tests.runs.conftest import WAIT, Model, audit, begin, ended, says, text

pytestmark = pytest.mark.django_db(transaction=True)

WINDOW = 4000
MODEL = f"openai/demo-window-{WINDOW}"


@tool(repeat=Repeat.SAFE)
async def read_much() -> str:
    """Answers with more than fits in beside much else."""
    return "much to read " * 500


@pytest.fixture
def model() -> ModelClients:
    """Its connections end with the loop of its worker."""
    return ModelClients()


@pytest.fixture
def calls(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    """The demo model's record of what it was asked."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    runner = asyncio.run_coroutine_threadsafe(start_server("127.0.0.1", 0), loop).result(5)
    host, port = runner.addresses[0][:2]
    settings.AGENT_API_BASE = f"http://{host}:{port}/v1"
    settings.AGENT_MODEL, settings.AGENT_MODELS = MODEL, [MODEL]
    settings.AGENT_CONTEXT_TOKENS = WINDOW
    settings.RUN_FLUSH_MS = 1
    monkeypatch.setitem(TOOLS, "read_much", read_much)
    yield runner.app[CALLS]
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(5)
    loop.call_soon_threadsafe(loop.stop)


@pytest.fixture
def chat() -> Chat:
    return ChatFactory(title="long")


def say(worker: Worker, chat: Chat, words: str, **fields: Any) -> Run:
    run, _ = dispatch.start_run(Start(chat, chat.created_by, words, Run.Trigger.USER, **fields))
    worker.execute(run.pk, 1)
    run.refresh_from_db()
    assert run.status == "succeeded", run.error
    return run


def talk(runner: asyncio.Runner, client: ModelClients, chat: Chat, words: str) -> str:
    """A turn as a worker drives it, but for log and heartbeat, which take most of its time."""
    run, _ = dispatch.start_run(Start(chat, chat.created_by, words, Run.Trigger.USER))
    assert lifecycle.claim(run.pk, 1, uuid4(), "runs@test")
    turn = Turn(
        model=run.model,
        past=journal.history(run, "be good"),
        tools={"read_much": read_much},
        context=lambda call_id: ToolContext(None, chat.pk, run.pk, call_id),
        call_prefix=run.pk.hex[-12:],
        budget=Budget(),
        stall=5.0,
        api_base=settings.AGENT_API_BASE,
        window=settings.AGENT_CONTEXT_TOKENS,
    )

    async def events() -> list[Event]:
        return [event async for event in run_agent(client, turn, [])]

    for event in runner.run(events()):
        if isinstance(event, Summarised):
            lifecycle.record_summary(run.pk, 1, uuid4(), event)
        elif isinstance(event, ModelStep):
            lifecycle.record_step(run.pk, 1, event)
        elif isinstance(event, Outcome):
            lifecycle.record_outcome(run.pk, 1, event)
    run.refresh_from_db()
    transcript = journal.transcript_of(run, journal.recorded_steps(run.pk))
    closed = journal.closed(run, transcript, COMPLETED)
    lifecycle.settle(run, COMPLETED, closed.parts, closed.metadata)
    return text_of(closed.parts)


@pytest.mark.parametrize("turns", [90, pytest.param(600, marks=pytest.mark.chaos)])
def test_what_was_told_first_is_known_after_hundreds_of_turns(
    chat: Chat, calls: Calls, model: ModelClients, sent: Any, turns: int
) -> None:
    with asyncio.Runner() as runner:
        talk(runner, model, chat, "fact: door = blue tokens:3")
        for number in range(2, turns):
            words = "call:read_much" if number % 40 == 0 else "and so on " * 20
            assert talk(runner, model, chat, f"turn {number}: {words} tokens:3")
        assert talk(runner, model, chat, "script:recall about:door") == "blue"
        runner.run(model.close())
    report = calls.report(None, bulky=False)["calls"]
    assert [call for call in report if call["outcome"] != "finished"] == []
    assert Run.objects.filter(chat=chat, status="succeeded").count() == turns
    # all that was said stays stored, and shown
    assert Message.objects.current().filter(chat=chat).count() == 2 * turns
    assert 1 < Summary.objects.filter(chat=chat).count() < turns / 5


def test_the_run_that_needed_a_summary_pays_for_it(worker: Worker, calls: Calls) -> None:
    chat, _ = long_chat(40)
    run = audit(say(worker, chat, "script:recall about:number0"))
    assert text(run) == "0"
    steps = Step.objects.filter(run=run)
    assert run.input_tokens > sum(step.input_tokens for step in steps) > 0
    # and the next one is asked without a new one
    before = list(Summary.objects.order_by("pk"))
    assert text(say(worker, chat, "script:recall about:number1")) == "1"
    assert list(Summary.objects.order_by("pk")) == before


def long_chat(turns: int, model: str = MODEL) -> tuple[Chat, list[Message]]:
    """As many turns have ended; whose answers are about a hundred tokens each."""
    chat = ChatFactory(title="long")
    said = []
    for number in range(turns):
        words = [{"type": "text", "text": f"question {number} fact: number{number} = {number}"}]
        answer = [{"type": "step-start"}, {"type": "text", "text": "answer " * 50, "state": "done"}]
        said += [MessageFactory(chat=chat, parts=words), MessageFactory(chat=chat, role="assistant", parts=answer)]
    return chat, said


def summarised(chat: Chat, last: Message, **fields: Any) -> Summary:
    covered = Message.objects.current().up_to(last).order_by("created_at", "pk")
    known = {"first": covered[0], "message_count": covered.count(), "text": "They talked.", "model": "demo"}
    return Summary.objects.create(id=uuid4(), chat=chat, last=last, **(known | fields))


def remembered(chat: Chat) -> tuple[str, str]:
    """The summary that a new run gets, and the first question that it gets in full."""
    MessageFactory(chat=chat)
    run = RunFactory(chat=chat, status="aborted", end_reason="stopped", finished_at=Now())
    past = journal.history(run, "be good")
    return past.summary, past.exchanges[0].messages[0]["content"].partition(" fact")[0]


def test_a_summary_stands_for_the_messages_it_covers() -> None:
    chat, said = long_chat(4)
    summarised(chat, said[1], text="older")
    summarised(chat, said[3])
    assert remembered(chat) == ("They talked.", "question 2")


def test_a_summary_of_what_was_replaced_is_not_read() -> None:
    chat, said = long_chat(4)
    summarised(chat, said[1], text="older")
    summarised(chat, said[5])
    Message.objects.current().from_on(said[4]).update(replaced_at=Now())
    assert remembered(chat) == ("older", "question 1")


def test_a_summary_of_what_was_deleted_is_not_read() -> None:
    chat, said = long_chat(4)
    summarised(chat, said[5])
    said[2].delete()
    assert remembered(chat) == ("", "question 0")


def test_another_chat_s_summary_is_not_read() -> None:
    chat, _ = long_chat(2)
    other, said = long_chat(2)
    summarised(other, said[1])
    assert remembered(chat) == ("", "question 0")


def test_a_summary_is_recorded_once_and_counted_once() -> None:
    chat, said = long_chat(3)
    run = RunFactory(chat=chat, running=True)
    summary = Summarised("They talked.", said[3].pk, "demo", Usage(5, 2))
    summary_id = uuid4()
    lifecycle.record_summary(run.pk, 1, summary_id, summary)
    lifecycle.record_summary(run.pk, 1, summary_id, summary)
    run.refresh_from_db()
    assert (run.input_tokens, run.output_tokens) == (5, 2)
    row = Summary.objects.get()
    assert (row.first_id, row.last_id, row.message_count, row.run_id) == (said[0].pk, said[3].pk, 4, run.pk)


def test_who_lost_the_lease_records_no_summary() -> None:
    chat, said = long_chat(3)
    run = RunFactory(chat=chat, running=True, attempt=2)
    with pytest.raises(LeaseLost):
        lifecycle.record_summary(run.pk, 1, uuid4(), Summarised("They talked.", said[3].pk, "demo", Usage(5, 2)))
    run.refresh_from_db()
    assert (Summary.objects.count(), run.input_tokens) == (0, 0)


def test_a_chat_far_longer_than_the_window_is_summarised_piece_by_piece(worker: Worker, calls: Calls) -> None:
    chat, _ = long_chat(120)
    assert text(audit(say(worker, chat, "script:recall about:number0"))) == "0"
    assert Summary.objects.filter(chat=chat).count() > 1


class TestScripted:
    """With a model that does in the summary what no server does at will."""

    @pytest.fixture
    def model(self) -> Model:
        return Model()

    @pytest.fixture
    def run(self, settings: Settings) -> Run:
        settings.AGENT_CONTEXT_TOKENS = WINDOW
        chat, _ = long_chat(40)
        MessageFactory(chat=chat)
        return RunFactory(chat=chat)

    def test_a_stop_reaches_a_summary_and_what_it_used_is_counted(self, worker: Worker, model: Model, run: Run) -> None:
        model.will([Said("text", "They "), WAIT])
        thread = begin(worker, run)
        assert model.reached.wait(5)
        stop.request_stop(run.pk, None, "user")
        ended(thread)
        assert model.open == 0
        audit(run)
        assert (run.status, run.step_count, run.usage_estimated) == ("aborted", 0, True)
        assert run.input_tokens > 1000
        assert not Summary.objects.exists()

    def test_a_summary_that_fails_fails_no_run(self, worker: Worker, model: Model, run: Run) -> None:
        model.will([ModelError("overloaded", "busy", transient=True)], says("hello"))
        worker.execute(run.pk, 1)
        assert (audit(run).status, text(run)) == ("succeeded", "hello")
        assert not Summary.objects.exists()
