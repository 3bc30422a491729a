"""`replaces`: a message edited or an answer written anew; what stood there leaves the chat and stays stored."""

import threading
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection

from agents.tools import ToolContext
from chat.models import Chat, Message
from runs import journal, tools
from runs.models import Run
from tests.api.callers import Api, Json, assert_refused, by_session, nothing_changed
from tests.factories import ChatFactory, MessageFactory, run_in

pytestmark = pytest.mark.django_db


def said(text: str) -> list[Json]:
    return [{"type": "text", "text": text}]


def turn(chat: Chat, question: str, answer: str, status: str = "succeeded") -> tuple[Message, Message]:
    """The two messages of a turn that has ended."""
    asked = MessageFactory(chat=chat, parts=said(question))
    message = run_in(status, chat=chat).message
    assert message is not None
    Message.objects.filter(pk=message.pk).update(parts=said(answer), status="completed")
    return asked, message


def start(api: Api, chat: Chat, **body: Any) -> Any:
    body = {name: str(value) if name in ("replaces", "id") else value for name, value in body.items()}
    return api.post(f"/api/chats/{chat.pk}/runs", body)


def shown(api: Api, chat: Chat) -> list[str]:
    return [message["text"] for message in api.get(f"/api/chats/{chat.pk}/messages").json()["results"]]


def history(run_id: str) -> list[str]:
    return [message["content"] for message in journal.history(Run.objects.get(pk=run_id), "be good").messages()][1:]


def test_an_edited_message_replaces_itself_and_all_after_it(api: Api, chat: Chat) -> None:
    turn(chat, "first", "one")
    edited, _ = turn(chat, "second", "two")
    turn(chat, "third", "three")
    turn(ChatFactory(), "of another chat", "later")
    before = list(Message.objects.order_by("pk").values("pk", "parts", "status", "created_at"))
    # when
    response = start(api, chat, text="second thoughts", replaces=edited.pk)
    # then it is out of the list, the history and the export
    assert response.status_code == 202
    run = response.json()
    assert run["trigger"] == "user"
    assert shown(api, chat) == ["first", "one", "second thoughts", ""]
    assert history(run["id"]) == ["first", "one", "second thoughts"]
    for form in ("markdown", "json"):
        exported = api.get(f"/api/chats/{chat.pk}/export", {"format": form}).text
        assert "second thoughts" in exported
        assert "two" not in exported
        assert "third" not in exported
    # and stays stored
    stored = Message.objects.filter(pk__in=[row["pk"] for row in before]).order_by("pk")
    assert list(stored.values("pk", "parts", "status", "created_at")) == before
    assert stored.filter(replaced_at=None).count() == 4


def test_an_answer_written_anew_replaces_itself_and_all_after_it(program: Api, chat: Chat) -> None:
    _, again = turn(chat, "first", "one")
    turn(chat, "second", "two")
    response = start(program, chat, replaces=again.pk)
    assert response.status_code == 202
    run = response.json()
    assert run["trigger"] == "api"
    assert run["message_id"] != str(again.pk)
    assert shown(program, chat) == ["first", ""]
    assert history(run["id"]) == ["first"]
    latest = program.get(f"/api/chats/{chat.pk}/run").json()
    assert (latest["run"]["id"], latest["message"]["id"]) == (run["id"], run["message_id"])


def test_what_was_replaced_keeps_the_time_of_that(api: Api, chat: Chat) -> None:
    first, _ = turn(chat, "first", "one")
    second, _ = turn(chat, "second", "two")

    def edit(message: Message) -> Any:
        api.post(f"/api/runs/{start(api, chat, text='x', replaces=message.pk).json()['id']}/stop")
        return Message.objects.values_list("replaced_at", flat=True).get(pk=second.pk)

    assert edit(second) == edit(first) is not None


def test_what_was_replaced_is_found_by_no_search(api: Api, chat: Chat, person: Any) -> None:
    _, again = turn(chat, "question", "zebra")
    other = ChatFactory(created_by=person, workspace=chat.workspace)
    context = ToolContext(user_id=person.pk, chat_id=other.pk, run_id=uuid4(), key="x")

    def found() -> tuple[int, int]:
        return len(api.get("/api/chats?q=zebra").json()["results"]), len(tools._found(context, "zebra", 5))

    assert found() == (1, 1)
    start(api, chat, replaces=again.pk)
    assert found() == (0, 0)


@pytest.mark.parametrize("status", ["failed", "aborted"])
def test_the_answer_of_a_run_that_failed_is_written_anew(api: Api, chat: Chat, status: str) -> None:
    _, again = turn(chat, "question", "half an", status)
    assert start(api, chat, replaces=again.pk).status_code == 202
    assert shown(api, chat) == ["question", ""]


def test_only_a_current_message_of_this_chat_is_replaced(api: Api, chat: Chat, person: Any) -> None:
    gone, _ = turn(chat, "gone", "gone")
    run = start(api, chat, text="instead", replaces=gone.pk).json()
    api.post(f"/api/runs/{run['id']}/stop")
    strangers, _ = turn(ChatFactory(), "hers", "hers")
    colleagues, _ = turn(ChatFactory(workspace=chat.workspace), "his", "his")
    elsewhere, _ = turn(ChatFactory(created_by=person, workspace=chat.workspace), "mine", "mine")
    absent = start(api, chat, text="x", replaces=uuid4())
    with nothing_changed():
        for wrong in (gone.pk, strangers.pk, colleagues.pk, elsewhere.pk, chat.pk, run["id"]):
            response = start(api, chat, text="x", replaces=wrong)
            assert_refused(response, "NOT_FOUND")
            assert (response.content, response.headers) == (absent.content, absent.headers)
            assert_refused(start(api, chat, replaces=wrong), "NOT_FOUND")


def test_a_message_is_edited_with_a_text_and_an_answer_written_anew_without(api: Api, chat: Chat) -> None:
    question, answer = turn(chat, "question", "answer")
    with nothing_changed():
        assert_refused(start(api, chat, replaces=question.pk), "INVALID", "text")
        assert_refused(start(api, chat, text="my own answer", replaces=answer.pk), "INVALID", "text")


def test_nothing_is_replaced_while_an_answer_is_written(api: Api, chat: Chat) -> None:
    question, answer = turn(chat, "question", "answer")
    asked = MessageFactory(chat=chat)
    live = run_in("running", chat=chat)
    with nothing_changed():
        for body in (
            {"replaces": live.message_id},
            {"replaces": answer.pk},
            {"replaces": asked.pk, "text": "x"},
            {"replaces": question.pk, "text": "x"},
        ):
            assert assert_refused(start(api, chat, **body), "A_RUN_ALREADY_ACTIVE")["run_id"] == str(live.pk)


def test_the_same_replacement_again_finds_the_same_run(api: Api, chat: Chat) -> None:
    question, answer = turn(chat, "question", "answer")
    chosen = uuid4()
    first, again = (start(api, chat, id=chosen, text="other", replaces=question.pk) for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.json() == first.json()
    assert shown(api, chat) == ["other", ""]
    # and when it has ended as well
    api.post(f"/api/runs/{chosen}/stop")
    assert start(api, chat, id=chosen, text="other", replaces=question.pk).status_code == 200
    assert Run.objects.filter(chat=chat).count() == 2
    # another message to replace is another request
    assert_refused(start(api, chat, id=chosen, text="other", replaces=answer.pk), "ID_TAKEN")
    assert_refused(start(api, chat, id=chosen, text="other"), "ID_TAKEN")


def at_once(asks: list[Any]) -> list[Any]:
    """The answers of requests that wait for each other to begin."""
    answers: list[Any] = []
    barrier = threading.Barrier(len(asks))

    def work(ask: Any) -> None:
        try:
            barrier.wait(10)
            answers.append(ask())
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(ask,)) for ask in asks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


@pytest.mark.django_db(transaction=True)
def test_of_many_replacements_at_once_one_takes_place(person: Any, chat: Chat) -> None:
    question, answer = turn(chat, "question", "answer")
    apis = [by_session(person) for _ in range(6)]
    answers = at_once(
        [lambda api=api: start(api, chat, text="other", replaces=question.pk) for api in apis[:3]]
        + [lambda api=api: start(api, chat, replaces=answer.pk) for api in apis[3:]]
    )
    # then one has won, the others know of its run, and nothing is half replaced
    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 5
    (run,) = Run.objects.active()
    won = {answer.json().get("run_id", answer.json().get("id")) for answer in answers}
    assert won == {str(run.pk)}
    assert shown(apis[0], chat) in (["other", ""], ["question", ""])
    assert Message.objects.count() == 2 + (2 if shown(apis[0], chat)[0] == "other" else 1)


@pytest.mark.django_db(transaction=True)
def test_the_same_replacement_many_times_at_once_is_one(person: Any, chat: Chat) -> None:
    question, _ = turn(chat, "question", "answer")
    chosen = uuid4()
    apis = [by_session(person) for _ in range(6)]
    answers = at_once([lambda api=api: start(api, chat, id=chosen, text="a", replaces=question.pk) for api in apis])
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [202]
    assert shown(apis[0], chat) == ["a", ""]
