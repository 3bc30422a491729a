"""Chats that outgrow their model's window: every turn works, and nothing that mattered is forgotten.

Against the demo model over real HTTP, which counts by itself and refuses what is too long for it."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from pytest_django import Settings

from agents.clients import ModelClients
from agents.demo.calls import Calls
from agents.demo.server import CALLS, start_server
from agents.tools import Repeat, tool
from chat.models import Chat, Message
from runs import dispatch
from runs.dispatch import Start
from runs.models import Run, Step, Summary
from runs.tools import TOOLS
from runs.worker import Worker
from tests.factories import ChatFactory
from tests.runs.conftest import audit, text

pytestmark = pytest.mark.django_db(transaction=True)

WINDOW = 4000
MODEL = f"openai/demo-window-{WINDOW}"


@tool(repeat=Repeat.SAFE)
async def read_much() -> str:
    """Answers with more than fits in beside much else."""
    return "much to read " * 500


@pytest.fixture
def model() -> Iterator[ModelClients]:
    clients = ModelClients()
    yield clients
    # its connections end with the loop of its worker


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


def test_what_was_told_first_is_known_after_six_hundred_turns(worker: Worker, chat: Chat, calls: Calls) -> None:
    say(worker, chat, "fact: door = blue tokens:5")
    for number in range(1, 99):
        words = "call:read_much" if number % 40 == 0 else "and so on " * 20
        say(worker, chat, f"turn {number}: {words} tokens:3")
        if number == 50:
            say(worker, chat, "fact: window = green tokens:5")
    last = audit(say(worker, chat, "script:recall about:door"))
    assert text(last) == "blue"
    assert text(say(worker, chat, "script:recall about:window")) == "green"
    report = calls.report(None, bulky=False)
    assert [call for call in report["calls"] if call["outcome"] != "finished"] == []
    assert {"summary", "recall"} <= {call["script"] for call in report["calls"]}
    # all that was said stays stored, and shown
    assert Message.objects.current().filter(chat=chat).count() == 2 * 602 - 2
    summaries = Summary.objects.filter(chat=chat)
    assert 1 < summaries.count() < 100
    # what they cost is counted in the run that needed them
    summarising = Run.objects.get(pk=summaries.latest("created_at").run_id)
    steps = Step.objects.filter(run=summarising)
    assert summarising.input_tokens > sum(step.input_tokens for step in steps) > 0
