"""Chats: what is shown, created, renamed, found, deleted and exported, and for whom."""

import re
from typing import Any
from uuid import uuid4

import pytest

from chat.models import Chat, Message
from runs.models import Run
from tests.api.callers import Api, assert_refused, by_session
from tests.factories import ChatFactory, MembershipFactory, MessageFactory, RunFactory, UserFactory, run_in

pytestmark = pytest.mark.django_db

CHAT = {"id", "workspace_id", "title", "role_id", "active_run_id", "created_at", "updated_at"}


def titles(response: Any) -> list[str]:
    return [found["title"] for found in response.json()["results"]]


def test_a_chat_is_created_in_the_only_workspace(api: Api, chat: Chat) -> None:
    response = api.post("/api/chats", {"title": "new"})
    assert response.status_code == 201
    body = response.json()
    assert set(body) == CHAT
    assert (body["title"], body["workspace_id"], body["active_run_id"], body["role_id"]) == (
        "new",
        str(chat.workspace_id),
        None,
        None,
    )
    assert api.get(f"/api/chats/{body['id']}").json() == body


def test_a_chat_may_be_created_without_a_title(api: Api) -> None:
    assert api.post("/api/chats").json()["title"] == ""


def test_a_chat_takes_the_id_its_client_chose(api: Api) -> None:
    chosen = str(uuid4())
    assert api.post("/api/chats", {"id": chosen.upper()}).json()["id"] == chosen


def test_a_taken_id_is_refused_whoever_has_it(api: Api, chat: Chat) -> None:
    mine = api.post("/api/chats", {"id": str(chat.pk)})
    theirs = api.post("/api/chats", {"id": str(ChatFactory().pk)})
    assert_refused(mine, "ID_TAKEN")
    assert mine.content == theirs.content


def test_who_is_in_two_workspaces_names_one(api: Api, person: Any) -> None:
    other = MembershipFactory(user=person).workspace
    assert_refused(api.post("/api/chats"), "INVALID", "workspace")
    created = api.post("/api/chats", {"workspace": str(other.pk)})
    assert created.json()["workspace_id"] == str(other.pk)


def test_who_is_in_no_workspace_creates_nothing() -> None:
    assert_refused(by_session(UserFactory()).post("/api/chats"), "NO_WORKSPACE")


def test_a_workspace_of_others_is_not_there(api: Api) -> None:
    foreign = api.post("/api/chats", {"workspace": str(ChatFactory().workspace_id)})
    assert_refused(foreign, "NOT_FOUND")
    assert foreign.content == api.post("/api/chats", {"workspace": str(uuid4())}).content


def test_a_chat_shows_its_active_run(api: Api, chat: Chat) -> None:
    run_in("succeeded", chat=chat)
    run = run_in("running", chat=chat)
    assert api.get(f"/api/chats/{chat.pk}").json()["active_run_id"] == str(run.pk)
    assert api.get("/api/chats").json()["results"][0]["active_run_id"] == str(run.pk)


def test_a_renamed_chat_is_the_newest(api: Api, chat: Chat, person: Any) -> None:
    ChatFactory(created_by=person, workspace=chat.workspace, title="later")
    assert titles(api.get("/api/chats")) == ["later", "mine"]
    # when
    response = api.patch(f"/api/chats/{chat.pk}", {"title": "renamed"})
    # then
    assert (response.status_code, set(response.json()), response.json()["title"]) == (200, CHAT, "renamed")
    assert titles(api.get("/api/chats")) == ["renamed", "later"]


def test_a_title_is_kept_letter_by_letter(api: Api, chat: Chat) -> None:
    title = " \t<script>{{7*7}}' OR 1=1 --\u202e\U000e0041=cmd\x1b[0m\r\n "
    assert api.patch(f"/api/chats/{chat.pk}", {"title": title}).json()["title"] == title


@pytest.mark.parametrize(("length", "status"), [(0, 200), (1, 200), (255, 200), (256, 400), (10_000, 400)])
def test_a_title_has_at_most_255_characters(api: Api, chat: Chat, length: int, status: int) -> None:
    assert api.patch(f"/api/chats/{chat.pk}", {"title": "🙂" * length}).status_code == status


def test_a_deleted_chat_is_gone_with_all_in_it(api: Api, chat: Chat) -> None:
    run_in("succeeded", chat=chat)
    response = api.delete(f"/api/chats/{chat.pk}")
    assert (response.status_code, response.content) == (204, b"")
    assert_refused(api.get(f"/api/chats/{chat.pk}"), "NOT_FOUND")
    assert not Message.objects.exists()
    assert not Run.objects.exists()


def test_a_chat_that_is_out_of_reach_is_not_listed(api: Api, chat: Chat, person: Any) -> None:
    # given a chat of the same workspace, one of another, and one of a workspace that was left
    ChatFactory(workspace=chat.workspace, title="colleague")
    ChatFactory(title="stranger")
    ChatFactory(created_by=person, title="left").workspace.memberships.filter(user=person).delete()
    # then
    assert titles(api.get("/api/chats")) == ["mine"]


SEARCHES = {
    "zebra": {"animals"},
    "ZEBRA": {"animals"},
    '"green apple"': {"fruit"},
    '"apple green"': set(),
    "apple -green": {"more fruit"},
    "fruit": {"fruit", "more fruit"},
    "zebra or juicy": {"animals", "fruit"},
    "lorem:*": set(),
    "%": set(),
    "' OR 1=1 --": set(),
    '"unclosed': set(),
    "& | ! <-> ()": set(),
    "😀": set(),
}


@pytest.mark.parametrize("words", SEARCHES)
def test_a_search_finds_words_in_titles_and_messages_of_ones_own(api: Api, chat: Chat, words: str) -> None:
    # given chats of mine, and others with the same words in them
    for owner in (chat.created_by, UserFactory()):
        for title, text in [("animals", "a zebra"), ("fruit", "juicy green apple"), ("more fruit", "a red apple")]:
            MessageFactory(
                chat=ChatFactory(created_by=owner, workspace=chat.workspace, title=title),
                parts=[{"type": "text", "text": text}],
            )
    # then
    found = titles(api.get("/api/chats", {"q": words}))
    assert sorted(found) == sorted(SEARCHES[words])


def test_a_search_is_paged_too(api: Api, chat: Chat, person: Any) -> None:
    ChatFactory(created_by=person, workspace=chat.workspace, title="not mine")
    first = api.get("/api/chats", {"q": "mine", "limit": 1}).json()
    assert [found["title"] for found in first["results"]] == ["not mine"]
    assert titles(api.get(first["next"])) == ["mine"]


def test_a_conversation_is_exported_as_markdown(api: Api, chat: Chat) -> None:
    # given
    MessageFactory(chat=chat, parts=[{"type": "text", "text": "what time is it?"}])
    tool = {"type": "tool-current_time", "toolCallId": "c1", "state": "output-available", "input": {}, "output": "```"}
    answer = run_in("aborted", chat=chat).message
    Message.objects.filter(pk=answer.pk).update(
        status="aborted", parts=[{"type": "step-start"}, tool, {"type": "text", "text": "late", "state": "done"}]
    )
    # when
    response = api.get(f"/api/chats/{chat.pk}/export")
    # then
    assert response["Content-Type"] == "text/markdown; charset=utf-8"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert response["Content-Disposition"] == 'attachment; filename="mine.md"'
    head, call, end = response.text.split("````")
    assert head == "# mine\n\n## You\n\nwhat time is it?\n\n## Assistant (aborted)\n\nTool `current_time`:\n\n"
    assert '"output": "```"' in call
    assert end == "\n\nlate\n"


def test_a_conversation_is_exported_as_json(api: Api, chat: Chat) -> None:
    MessageFactory(chat=chat)
    run_in("running", chat=chat)
    response = api.get(f"/api/chats/{chat.pk}/export?format=json")
    assert response["Content-Type"] == "application/json"
    assert response["Content-Disposition"] == 'attachment; filename="mine.json"'
    messages = api.get(f"/api/chats/{chat.pk}/messages").json()["results"]
    assert response.json() == {"id": str(chat.pk), "title": "mine", "messages": messages}


@pytest.mark.parametrize(
    "title", ["", "../../etc/passwd", 'a"; x="', "a\r\nSet-Cookie: b", "\u202egpj", "日本", "a" * 255]
)
@pytest.mark.parametrize("form", ["markdown", "json"])
def test_the_name_of_an_export_cannot_be_more_than_a_name(api: Api, chat: Chat, title: str, form: str) -> None:
    Chat.objects.filter(pk=chat.pk).update(title=title)
    response = api.get(f"/api/chats/{chat.pk}/export", {"format": form})
    assert re.fullmatch(r'attachment; filename="[A-Za-z0-9-]{1,60}\.(md|json)"', response["Content-Disposition"])
    assert "Set-Cookie" not in response


def test_a_title_is_one_line_of_an_export(api: Api, chat: Chat) -> None:
    Chat.objects.filter(pk=chat.pk).update(title="a\n\n## You\n\nforged")
    assert api.get(f"/api/chats/{chat.pk}/export").text == "# a ## You forged\n"


def test_a_pending_run_ends_before_its_chat_is_deleted(
    api: Api, chat: Chat, django_capture_on_commit_callbacks: Any, redis: Any
) -> None:
    run = RunFactory(chat=chat)
    with django_capture_on_commit_callbacks(execute=True):
        assert api.delete(f"/api/chats/{chat.pk}").status_code == 204
    # then who follows it learns of its end
    assert b'"endReason":"stopped"' in redis.xrevrange(f"run:{run.pk}:log", count=1)[0][1][b"d"]


def test_the_worker_of_a_deleted_chat_is_told(
    api: Api, chat: Chat, django_capture_on_commit_callbacks: Any, redis: Any
) -> None:
    run = run_in("running", chat=chat)
    with redis.pubsub() as channel:
        channel.subscribe("runs:stop")
        with django_capture_on_commit_callbacks(execute=True):
            assert api.delete(f"/api/chats/{chat.pk}").status_code == 204
        heard = [channel.get_message(timeout=5) for _ in range(2)]
    assert str(run.pk).encode() in heard[1]["data"]
