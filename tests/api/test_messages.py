"""The messages of a chat: their order, their shape, and the one that is being written."""

from typing import Any

import pytest

from agents import chunks
from chat.models import Chat, Message
from runs.ending import start_chunk
from runs.eventlog import write_whole
from runs.models import Run
from tests.api.callers import Api
from tests.factories import MessageFactory, RunFactory, StepFactory, run_in

pytestmark = pytest.mark.django_db

MESSAGE = {"id", "chat_id", "role", "parts", "text", "status", "metadata", "run_id", "created_at"}


def said(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text, "state": "done"}]


def listed(api: Api, chat: Chat, query: str = "") -> list[dict[str, Any]]:
    response = api.get(f"/api/chats/{chat.pk}/messages{query}")
    assert response.status_code == 200
    found: list[dict[str, Any]] = response.json()["results"]
    return found


def writing(chat: Chat) -> Run:
    """A live run that has logged half a sentence."""
    run = run_in("running", chat=chat)
    began = [start_chunk(run), chunks.start_step(), chunks.opened("text", "text-0-0")]
    write_whole(run.pk, 1, [*began, chunks.delta("text", "text-0-0", "half a sen")])
    return run


def test_messages_are_listed_oldest_first_or_newest_first(api: Api, chat: Chat) -> None:
    for text in "abc":
        MessageFactory(chat=chat, parts=said(text))
    MessageFactory(parts=said("of another chat"))
    assert [message["text"] for message in listed(api, chat)] == ["a", "b", "c"]
    assert [message["text"] for message in listed(api, chat, "?order=oldest")] == ["a", "b", "c"]
    assert [message["text"] for message in listed(api, chat, "?order=newest")] == ["c", "b", "a"]


def test_a_message_shows_its_parts_and_their_text(api: Api, chat: Chat) -> None:
    parts = [
        {"type": "step-start"},
        {"type": "reasoning", "text": "hm", "state": "done"},
        *said("hello "),
        {"type": "tool-x", "toolCallId": "c", "state": "output-available", "input": {"a": None}, "output": [1, None]},
        *said("world"),
    ]
    run = run_in("succeeded", chat=chat)
    Message.objects.filter(pk=run.message_id).update(parts=parts, status="completed", metadata={"usage": {"a": 1}})
    # when
    (message,) = listed(api, chat)
    # then
    assert set(message) == MESSAGE
    assert message.pop("created_at")
    assert message == {
        "id": str(run.message_id),
        "chat_id": str(chat.pk),
        "role": "assistant",
        "parts": parts,
        "text": "hello world",
        "status": "completed",
        "metadata": {"usage": {"a": 1}},
        "run_id": str(run.pk),
    }


def test_the_message_of_a_live_run_shows_its_log(api: Api, chat: Chat, redis: Any) -> None:
    run = writing(chat)
    (message,) = listed(api, chat)
    assert (message["status"], message["text"], message["run_id"]) == ("streaming", "half a sen", str(run.pk))
    assert message["parts"][-1] == {"type": "text", "text": "half a sen", "state": "streaming"}
    latest = api.get(f"/api/chats/{chat.pk}/run").json()
    assert latest["message"] == message


def test_the_message_of_a_live_run_shows_its_journal_when_the_log_is_lost(api: Api, chat: Chat, redis: Any) -> None:
    run = run_in("running", chat=chat, step_count=1)
    StepFactory(run=run, parts=[{"type": "step-start"}, *said("journal")])
    assert [message["text"] for message in listed(api, chat)] == ["journal"]


def test_the_live_message_may_be_left_out(api: Api, chat: Chat, redis: Any) -> None:
    MessageFactory(chat=chat, parts=said("question"))
    ended = run_in("succeeded", chat=chat)
    run = writing(chat)
    # when
    response = api.get(f"/api/chats/{chat.pk}/messages?exclude_active=1")
    # then
    assert [message["run_id"] for message in response.json()["results"]] == [None, str(ended.pk)]
    assert response["X-Active-Run"] == str(run.pk)
    assert "X-Active-Run" not in api.get(f"/api/chats/{chat.pk}/messages?exclude_active=0")


def test_without_a_live_run_nothing_is_left_out(api: Api, chat: Chat) -> None:
    run_in("succeeded", chat=chat)
    response = api.get(f"/api/chats/{chat.pk}/messages?exclude_active=1")
    assert len(response.json()["results"]) == 1
    assert "X-Active-Run" not in response


def test_the_two_messages_of_a_turn_are_in_order(api: Api, chat: Chat) -> None:
    api.post(f"/api/chats/{chat.pk}/runs", {"text": "question"})
    assert [(message["role"], message["text"], message["status"]) for message in listed(api, chat)] == [
        ("user", "question", "completed"),
        ("assistant", "", "streaming"),
    ]


def test_a_chat_without_messages_has_an_empty_list(api: Api, chat: Chat) -> None:
    assert api.get(f"/api/chats/{chat.pk}/messages").json() == {"next": None, "previous": None, "results": []}


def test_a_message_outlives_its_run(api: Api, chat: Chat) -> None:
    run = RunFactory(chat=chat)
    Run.objects.filter(pk=run.pk).delete()
    assert [message["run_id"] for message in listed(api, chat)] == [None]
