"""A chat without a title gets one after its first turn, whatever happens to the task that finds it."""

import asyncio
import json
import threading
from base64 import b64decode
from typing import Any
from uuid import uuid4

import pytest
from celery import current_app
from kombu.exceptions import OperationalError
from pytest_django import Settings

from agents.demo.history import check_history
from agents.llm import Finished, ModelError, Said, Usage
from chat.models import Chat, Message
from runs import dispatch, tasks, titles
from runs import worker as worker_module
from runs.database import in_thread
from runs.models import Run
from runs.worker import Worker
from tests.factories import MessageFactory, RunFactory, run_in
from tests.runs.conftest import STOP, WAIT, Model, says, until

pytestmark = pytest.mark.django_db(transaction=True)


def answered(question: str = "what is the time?", answer: str = "noon", **fields: Any) -> Chat:
    """A chat after its first turn."""
    asked = MessageFactory(parts=[{"type": "text", "text": question}])
    run = run_in("succeeded", chat=asked.chat, **fields)
    parts = [{"type": "step-start"}, {"type": "text", "text": answer, "state": "done"}]
    Message.objects.filter(pk=run.message_id).update(parts=parts, status="completed")
    return asked.chat


def give(model: Model, chat: Chat) -> str:
    asyncio.run(titles.give(model, chat.pk))
    return title_of(chat)


def title_of(chat: Chat) -> str:
    return Chat.objects.values_list("title", flat=True).get(pk=chat.pk)


def asked_for(redis: Any) -> list[Any]:
    """The arguments of the tasks that wait in the ops queue for a title."""
    messages = map(json.loads, redis.lrange("celery:ops", 0, -1))
    titling = (message for message in messages if message["headers"]["task"] == titles.TASK)
    return [json.loads(b64decode(message["body"]))[0] for message in titling]


@pytest.fixture
def run() -> Run:
    return RunFactory(chat=MessageFactory().chat)


@pytest.mark.parametrize(
    "script", [says("hello"), [Said("text", "half"), ModelError("x", "no")]], ids=["well", "badly"]
)
def test_a_turn_that_has_ended_asks_for_a_title(
    worker: Worker, model: Model, run: Run, redis: Any, script: list[Any]
) -> None:
    model.will(script)
    worker.execute(run.pk, 1)
    until(lambda: asked_for(redis) == [[str(run.chat_id)]])


def test_a_chat_with_a_title_asks_for_none(worker: Worker, model: Model, run: Run, redis: Any) -> None:
    Chat.objects.filter(pk=run.chat_id).update(title="mine")
    other = RunFactory(chat=MessageFactory().chat)
    model.will(says("hello"), says("hello"))
    worker.execute(run.pk, 1)
    worker.execute(other.pk, 1)
    until(lambda: asked_for(redis) != [])
    assert asked_for(redis) == [[str(other.chat_id)]]


def test_a_turn_ends_well_when_nobody_takes_the_message_and_the_next_one_asks_again(
    worker: Worker, model: Model, run: Run, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = threading.Event()

    def away(*_: Any, **__: Any) -> None:
        tried.set()
        raise OperationalError

    model.will(says("hello"), says("again"))
    with monkeypatch.context() as patch:
        patch.setattr(current_app, "send_task", away)
        worker.execute(run.pk, 1)
        assert tried.wait(5)
        asyncio.run(titles.ask_for(run.chat_id))
    run.refresh_from_db()
    assert run.status == "succeeded"
    assert asked_for(redis) == []
    following = RunFactory(chat=run.chat)
    worker.execute(following.pk, 1)
    until(lambda: asked_for(redis) == [[str(run.chat_id)]])


def test_nobody_waits_long_for_a_broker_that_hangs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "SEND_SECONDS", 0.1)
    hung = threading.Event()
    monkeypatch.setattr(current_app, "send_task", lambda *_, **__: hung.wait(10))
    asking = threading.Thread(target=lambda: asyncio.run(titles.ask_for(run.chat_id)))
    asking.start()
    asking.join(5)
    assert not asking.is_alive()
    hung.set()


def test_a_worker_of_the_ops_queue_gives_the_title(
    worker: Worker, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_current", worker)
    chat = answered()
    model.will(says("The ", "time"))
    tasks.title_chat(str(chat.pk))
    until(lambda: title_of(chat) == "The time")


def test_no_other_task_waits_for_a_model_that_is_slow(
    worker: Worker, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_current", worker)
    model.will([WAIT])
    tasks.title_chat(str(answered().pk))
    assert model.reached.wait(5)
    assert model.open == 1


@pytest.mark.parametrize("garbage", [None, "", "x", 1, [], {}, "\0", "x" * 10_000], ids=repr)
def test_a_message_that_names_no_chat_is_dropped(garbage: Any) -> None:
    tasks.title_chat(garbage, "more", other="more")


def test_the_model_is_asked_in_a_way_that_every_provider_takes(model: Model) -> None:
    chat = answered("what is the time?", "x" * 10_000, model="openai/other")
    before = Chat.objects.get(pk=chat.pk).updated_at
    model.will(says("The time"))
    assert give(model, chat) == "The time"
    (request,) = model.requests
    check_history(request.messages)
    assert [message["content"] for message in request.messages] == [
        titles.INSTRUCTIONS,
        "what is the time?",
        "x" * titles.LONGEST_QUOTE,
        titles.REQUEST,
    ]
    assert (request.model, request.tools, request.stall) == ("openai/other", (), 10.0)
    assert Chat.objects.get(pk=chat.pk).updated_at == before


@pytest.mark.parametrize(
    ("said", "title"),
    [
        ("The time", "The time"),
        ("  \n\n # **The  time**\nand more", "The time"),
        ('"The time"', "The time"),
        ("Title: “The time”", "The time"),
        ("The \u202eemit\x1b[0m\u200b\u2028time\U000e0041", "The emit[0m"),
        ("👩\u200d👧 میl\u200cخ", "👩\u200d👧 میl\u200cخ"),
        ("日本" * 40, "日本" * 40),
    ],
)
def test_a_title_is_one_plain_line(model: Model, said: str, title: str) -> None:
    model.will(says(said))
    assert give(model, answered()) == title


@pytest.mark.parametrize(
    "script",
    [
        [STOP],
        says(" \n\u200b\n** "),
        says("word " * 20),
        [Said("reasoning", "thinking"), STOP],
        [ModelError("authentication", "The model's provider refused our credentials.")],
        [Said("text", "half a"), ModelError("stream_truncated", "It broke off.")],
        [Said("text", "half a"), WAIT],
        [*[Said("text", "x" * 100)] * 1000, AssertionError("nobody listens any more")],
    ],
    ids=["nothing", "nothing to see", "a sermon", "thoughts", "an error", "half of one", "silence", "no end"],
)
def test_without_a_title_of_the_model_the_first_words_are_one(
    model: Model, monkeypatch: pytest.MonkeyPatch, script: list[Any]
) -> None:
    monkeypatch.setattr(titles, "MODEL_SECONDS", 0.2)
    model.will(script)
    assert give(model, answered("what  is\nthe time?")) == "what is the time?"
    assert model.open == 0


@pytest.mark.parametrize(
    ("question", "title"),
    [
        ("word " * 100, "word " * 15 + "word…"),
        ("x" * 1000, "x" * 79 + "…"),
        ("\u202ea b\x1b", "a b"),
    ],
)
def test_the_first_words_are_cut_where_a_title_ends(model: Model, question: str, title: str) -> None:
    model.will([STOP])
    assert give(model, answered(question)) == title


def test_nobody_imports_litellm_for_a_title(model: Model, settings: Settings) -> None:
    assert give(model, answered(model="anthropic/some")) == "what is the time?"
    settings.AGENT_CLIENT = "litellm"
    assert give(model, answered(model="openai/some")) == "what is the time?"
    assert model.requests == []


def test_a_turn_without_an_answer_is_named_by_its_first_words(model: Model) -> None:
    assert give(model, answered(answer="")) == "what is the time?"
    assert give(model, answered(question=" ")) == ""
    assert model.requests == []


def test_what_was_replaced_is_not_what_the_chat_is_about(model: Model) -> None:
    chat = answered("old", "old")
    Message.objects.filter(chat=chat).update(replaced_at="2026-01-01T00:00Z")
    MessageFactory(chat=chat, parts=[{"type": "text", "text": "new"}])
    assert give(model, chat) == "new"


def test_a_title_that_a_person_gives_meanwhile_stays(model: Model) -> None:
    chat = answered()

    class Rival(Model):
        async def __call__(self, request: Any, /) -> Any:
            await in_thread(lambda: Chat.objects.filter(pk=chat.pk).update(title="mine"))
            yield Said("text", "the model's")
            yield Finished("stop", Usage(1, 1), "demo")

    assert give(Rival(), chat) == "mine"


def test_the_same_message_twice_asks_the_model_once(model: Model) -> None:
    chat = answered()
    model.will(says("The time"), says("Another"))
    assert [give(model, chat) for _ in range(2)] == ["The time", "The time"]
    assert len(model.requests) == 1


def test_a_chat_that_is_deleted_meanwhile_is_nobodys_problem(model: Model) -> None:
    chat = answered()
    asyncio.run(titles.give(model, uuid4()))

    class Rival(Model):
        async def __call__(self, request: Any, /) -> Any:
            await in_thread(lambda: Chat.objects.filter(pk=chat.pk).delete())
            yield Said("text", "too late")
            yield Finished("stop", Usage(1, 1), "demo")

    asyncio.run(titles.give(Rival(), chat.pk))
    assert not Chat.objects.filter(pk=chat.pk).exists()
