"""`continue`: the next run goes on from what the interrupted one said."""

from typing import Any
from uuid import uuid4

import pytest

from agents.demo.history import check_history
from agents.history import GO_ON
from chat.models import Chat, Message
from runs import journal
from runs.models import Run
from tests.api.callers import Api, Json, assert_refused, nothing_changed
from tests.factories import MessageFactory, RoleFactory, WorkspaceFactory, run_in

pytestmark = pytest.mark.django_db

STEP: Json = {"type": "step-start"}


def text(words: str) -> Json:
    return {"type": "text", "text": words, "state": "done"}


def interrupted(chat: Chat, *parts: Json, status: str = "failed") -> Run:
    MessageFactory(chat=chat, parts=[text("question")])
    return went_on(chat, *parts, status=status)


def went_on(chat: Chat, *parts: Json, status: str = "failed") -> Run:
    run = run_in(status, chat=chat)
    Message.objects.filter(pk=run.message_id).update(parts=list(parts), status="error")
    return run


def go_on(api: Api, chat: Chat, **body: Any) -> Any:
    return api.post(f"/api/chats/{chat.pk}/runs", {"continue": True, **body})


def history(run_id: str) -> list[Any]:
    messages = journal.history(Run.objects.get(pk=run_id), "be good").messages()
    check_history(messages)
    return messages[1:]


@pytest.mark.parametrize("status", ["failed", "aborted"])
def test_an_interrupted_answer_is_gone_on_with_in_a_message_of_its_own(api: Api, chat: Chat, status: str) -> None:
    run = interrupted(chat, STEP, text("half an"), status=status)
    response = go_on(api, chat)
    assert response.status_code == 202
    new = response.json()
    assert new["trigger"] == "continue"
    messages = api.get(f"/api/chats/{chat.pk}/messages").json()["results"]
    assert [(message["role"], message["text"], message["run_id"]) for message in messages] == [
        ("user", "question", None),
        ("assistant", "half an", str(run.pk)),
        ("assistant", "", new["id"]),
    ]
    assert history(new["id"]) == [
        {"role": "user", "content": "question"},
        {"role": "assistant", "content": "half an"},
        {"role": "user", "content": GO_ON},
    ]


def test_a_program_continues_too(program: Api, chat: Chat) -> None:
    interrupted(chat)
    assert go_on(program, chat).json()["trigger"] == "continue"


def test_an_answer_that_had_not_begun_is_begun(api: Api, chat: Chat) -> None:
    interrupted(chat)
    assert history(go_on(api, chat).json()["id"]) == [{"role": "user", "content": "question"}]


def test_an_answer_interrupted_behind_a_tool_goes_on_from_its_result(api: Api, chat: Chat) -> None:
    call = {"type": "tool-clock", "toolCallId": "c", "state": "output-error", "input": {}, "errorText": "interrupted"}
    interrupted(chat, STEP, text("let me see"), call)
    *_, result = history(go_on(api, chat).json()["id"])
    assert (result["role"], result["content"]) == ("tool", "Error: interrupted")


def test_who_was_interrupted_goes_on_unless_another_is_asked_for(api: Api, chat: Chat, settings: Any) -> None:
    settings.AGENT_MODELS = ["openai/was", "openai/other"]
    run = interrupted(chat, STEP, text("half"))
    was, other = RoleFactory(), RoleFactory(model="openai/other")
    Run.objects.filter(pk=run.pk).update(model="openai/was", role=was)
    for body, role, model in [
        ({}, was, "openai/was"),
        ({"model": "openai/other"}, was, "openai/other"),
        ({"role": str(other.pk)}, other, "openai/other"),
    ]:
        new = go_on(api, chat, **body).json()
        assert (new["role_id"], new["model"]) == (str(role.pk), model)
        Run.objects.filter(pk=new["id"]).delete()


def test_who_went_on_is_somebody_else_where_the_interrupted_one_cannot_be_had(
    api: Api, chat: Chat, settings: Any
) -> None:
    run = interrupted(chat, STEP, text("half"))
    Run.objects.filter(pk=run.pk).update(model="gone/model", role=RoleFactory(workspace=WorkspaceFactory()))
    new = go_on(api, chat).json()
    assert (new["role_id"], new["model"]) == (None, settings.AGENT_MODEL)


def test_an_answer_is_gone_on_with_as_often_as_it_is_interrupted(api: Api, chat: Chat) -> None:
    interrupted(chat, STEP, text("one "))
    went_on(chat)
    went_on(chat, STEP, text("two "))
    asked = [message["content"] for message in history(go_on(api, chat).json()["id"])]
    assert asked == ["question", "one ", GO_ON, "two ", GO_ON]


def test_the_next_question_comes_behind_the_whole_answer(api: Api, chat: Chat) -> None:
    interrupted(chat, STEP, text("one "))
    went_on(chat, STEP, text("two"), status="succeeded")
    run = api.post(f"/api/chats/{chat.pk}/runs", {"text": "next"}).json()
    assert [message["content"] for message in history(run["id"])] == ["question", "one ", GO_ON, "two", "next"]
    # one that said nothing leaves no trace
    Message.objects.filter(parts__contains=[text("two")]).update(parts=[])
    assert [message["content"] for message in history(run["id"])] == ["question", "one ", "next"]


def test_there_has_to_be_something_to_continue(api: Api, chat: Chat) -> None:
    with nothing_changed():
        assert_refused(go_on(api, chat), "INVALID", "continue")
    interrupted(chat, STEP, text("half"))
    went_on(chat, STEP, text("whole"), status="succeeded")
    with nothing_changed():
        assert_refused(go_on(api, chat), "INVALID", "continue")


@pytest.mark.parametrize("status", ["pending", "running"])
def test_a_live_answer_is_not_continued(api: Api, chat: Chat, status: str) -> None:
    interrupted(chat)
    live = run_in(status, chat=chat)
    with nothing_changed():
        assert assert_refused(go_on(api, chat), "A_RUN_ALREADY_ACTIVE")["run_id"] == str(live.pk)


def test_the_same_continuation_again_finds_the_same_run(api: Api, chat: Chat) -> None:
    interrupted(chat)
    chosen = str(uuid4())
    first, again = (go_on(api, chat, id=chosen) for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.json() == first.json()
    assert_refused(api.post(f"/api/chats/{chat.pk}/runs", {"text": "x", "id": chosen}), "ID_TAKEN")
