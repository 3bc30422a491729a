"""Runs: how one is started, what is shown of it, and who may not."""

import json
import threading
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.utils.dateparse import parse_datetime

from chat.models import Chat, Message
from runs import lifecycle
from runs.models import Run
from tests.api.callers import Api, Json, assert_refused, by_session
from tests.factories import ChatFactory, RunFactory, StepFactory, run_in

pytestmark = pytest.mark.django_db

RUN = {
    *("id", "chat_id", "message_id", "status", "end_reason", "error", "trigger", "detached", "model", "role_id"),
    *("attempt", "step_count", "usage", "limits", "worker", "heartbeat_at", "created_by", "stop_requested_at"),
    *("stop_requested_by", "stop_source", "created_at", "started_at", "finished_at", "stream_url"),
}
STEP = {"index", "attempt", "parts", "usage", "model", "finish_reason", "started_at", "finished_at"}
USAGE = {"input_tokens", "output_tokens", "cost_usd", "estimated"}


def start(api: Api, chat: Chat, text: str = "hello", **fields: Any) -> Any:
    return api.post(f"/api/chats/{chat.pk}/runs", {"text": text, **fields})


def test_a_turn_is_accepted_and_waits_for_a_worker(api: Api, chat: Chat, person: Any) -> None:
    response = start(api, chat)
    run: Json = response.json()
    assert response.status_code == 202
    assert response["Location"] == f"/api/runs/{run['id']}"
    assert set(run) == RUN
    assert set(run["usage"]) == USAGE
    assert set(run["limits"]) == {"steps", "tokens", "cost_usd", "seconds"}
    assert run["stream_url"] == f"/api/runs/{run['id']}/stream"
    assert run["message_id"] == str(Message.objects.get(role="assistant").pk)
    seen = {name: run[name] for name in ("status", "trigger", "detached", "attempt", "created_by", "chat_id", "worker")}
    assert seen == {
        "status": "pending",
        "trigger": "user",
        "detached": True,
        "attempt": 1,
        "created_by": person.pk,
        "chat_id": str(chat.pk),
        "worker": None,
    }
    assert api.get(response["Location"]).json() == run


def test_a_turn_moves_its_chat_to_the_top(api: Api, chat: Chat, person: Any) -> None:
    ChatFactory(created_by=person, workspace=chat.workspace)
    start(api, chat)
    assert api.get("/api/chats").json()["results"][0]["id"] == str(chat.pk)


def test_a_run_started_by_token_says_so(program: Api, chat: Chat) -> None:
    assert start(program, chat).json()["trigger"] == "api"


def test_a_text_is_kept_letter_by_letter(api: Api, chat: Chat) -> None:
    text = " \r\n<img onerror=x>\u2028\u0085\u202e\U000e0041{{7*7}} %(x)s \x1b[0m=cmd __proto__ "
    assert start(api, chat, text).status_code == 202
    assert api.get(f"/api/chats/{chat.pk}/messages").json()["results"][0]["text"] == text


def test_a_text_is_limited_in_bytes(api: Api, chat: Chat, settings: Any) -> None:
    settings.MESSAGE_MAX_BYTES = 8
    assert_refused(start(api, chat, "🙂🙂x"), "TOO_LARGE")
    assert start(api, chat, "🙂🙂").status_code == 202


def test_the_same_id_and_body_again_find_the_same_run(api: Api, chat: Chat) -> None:
    chosen = str(uuid4())
    first, again = (start(api, chat, id=chosen) for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json()["id"] == chosen
    assert again.json() == first.json()
    assert again["Location"] == first["Location"]
    assert Message.objects.count() == 2


def test_a_run_is_found_by_its_id_when_it_has_ended_too(api: Api, chat: Chat) -> None:
    chosen = str(uuid4())
    start(api, chat, id=chosen)
    api.post(f"/api/runs/{chosen}/stop")
    again = start(api, chat, id=chosen)
    assert (again.status_code, again.json()["status"]) == (200, "aborted")


def test_an_id_that_made_another_run_is_taken(api: Api, chat: Chat, person: Any) -> None:
    chosen = str(uuid4())
    start(api, chat, id=chosen)
    api.post(f"/api/runs/{chosen}/stop")
    elsewhere = ChatFactory(created_by=person, workspace=chat.workspace)
    foreign = RunFactory()
    others = [
        start(api, chat, "other text", id=chosen),
        start(api, chat, model="openai/other", id=chosen),
        start(api, elsewhere, id=chosen),
        start(api, chat, id=str(RunFactory(chat=elsewhere).pk)),
        start(api, chat, id=str(foreign.pk)),
    ]
    for response in others:
        assert_refused(response, "ID_TAKEN")
    assert Run.objects.count() == 3


def test_a_second_turn_is_refused_and_told_of_the_first(api: Api, chat: Chat) -> None:
    run = start(api, chat).json()
    body = assert_refused(start(api, chat), "A_RUN_ALREADY_ACTIVE")
    assert body["run_id"] == run["id"]
    assert Message.objects.count() == 2


def test_the_next_turn_starts_when_the_first_has_ended(api: Api, chat: Chat) -> None:
    run_in("failed", chat=chat)
    assert start(api, chat).status_code == 202


def test_a_workspace_can_switch_the_ai_off(api: Api, chat: Chat) -> None:
    chat.workspace.ai_chat = False
    chat.workspace.save(update_fields=["ai_chat"])
    assert_refused(start(api, chat), "AI_CHAT_OFF")
    assert not Message.objects.exists()


def test_a_workspace_can_switch_detached_runs_off(api: Api, chat: Chat) -> None:
    chat.workspace.autonomous_runs = False
    chat.workspace.save(update_fields=["autonomous_runs"])
    assert_refused(start(api, chat), "AUTONOMOUS_RUNS_OFF")
    assert not Message.objects.exists()


def test_a_run_names_a_model_of_the_list_or_none(api: Api, chat: Chat, settings: Any) -> None:
    settings.AGENT_MODELS = ["openai/small-*"]
    for model in ("openai/large", "OPENAI/small-1", "x/openai/small-1", "openai/small-1\n\0"):
        assert_refused(start(api, chat, model=model), "INVALID", "model")
    assert start(api, chat, model="openai/small-1").json()["model"] == "openai/small-1"
    assert api.get("/api/models").json() == {"default": "openai/demo", "patterns": ["openai/small-*"]}


def test_a_run_without_a_model_takes_the_default_one(api: Api, chat: Chat) -> None:
    assert start(api, chat).json()["model"] == "openai/demo"


@pytest.mark.parametrize("status", ["pending", "running", "succeeded", "failed", "aborted"])
def test_a_run_is_shown_in_every_status(api: Api, chat: Chat, status: str) -> None:
    run = run_in(status, chat=chat)
    shown = api.get(f"/api/runs/{run.pk}").json()
    assert set(shown) == RUN
    assert shown["status"] == status
    assert (shown["finished_at"] is not None) == run.is_terminal
    assert (shown["end_reason"] is not None) == run.is_terminal
    assert shown["worker"] == ("runs@test" if status == "running" else None)
    for name in ("error", "stop_requested_at", "stop_requested_by", "stop_source", "role_id"):
        assert shown[name] is None
    assert parse_datetime(shown["created_at"]) is not None


def test_my_runs_are_listed_newest_first_and_nobody_elses(api: Api, chat: Chat, person: Any) -> None:
    runs = [run_in("succeeded", chat=chat), run_in("failed", chat=chat)]
    elsewhere = run_in("running", chat=ChatFactory(created_by=person, workspace=chat.workspace))
    foreign = RunFactory(chat=ChatFactory(workspace=chat.workspace))

    def listed(path: str) -> list[str]:
        return [run["id"] for run in api.get(path).json()["results"]]

    older, newer = (str(run.pk) for run in runs)
    assert listed("/api/runs") == [str(elsewhere.pk), newer, older]
    assert listed("/api/runs?status=running") == [str(elsewhere.pk)]
    assert listed(f"/api/runs?chat={chat.pk}") == [newer, older]
    assert listed(f"/api/runs?chat={chat.pk}&status=failed") == [newer]
    assert listed(f"/api/runs?chat={foreign.chat_id}") == []
    assert listed(f"/api/chats/{chat.pk}/runs") == [newer, older]


def test_the_latest_run_of_a_chat_comes_with_its_message(api: Api, chat: Chat) -> None:
    assert api.get(f"/api/chats/{chat.pk}/run").json() == {"run": None, "message": None}
    run_in("succeeded", chat=chat)
    run = run_in("running", chat=chat)
    latest = api.get(f"/api/chats/{chat.pk}/run").json()
    assert set(latest["run"]) == RUN
    assert (latest["run"]["id"], latest["message"]["id"]) == (str(run.pk), str(run.message_id))
    assert latest["message"]["run_id"] == str(run.pk)


def test_a_run_outlives_its_message(api: Api, chat: Chat) -> None:
    run = run_in("succeeded", chat=chat)
    Message.objects.filter(pk=run.message_id).delete()
    latest = api.get(f"/api/chats/{chat.pk}/run").json()
    assert (latest["run"]["id"], latest["run"]["message_id"], latest["message"]) == (str(run.pk), None, None)


def test_the_steps_of_a_run_are_listed_in_order(api: Api, chat: Chat) -> None:
    run = run_in("succeeded", chat=chat)
    for index in (2, 0, 11, 1):
        StepFactory(run=run, index=index)
    StepFactory(run=run_in("running", chat=chat))
    steps = api.get(f"/api/runs/{run.pk}/steps").json()["results"]
    assert [step["index"] for step in steps] == [0, 1, 2, 11]
    assert set(steps[0]) == STEP
    assert set(steps[0]["usage"]) == USAGE
    first = api.get(f"/api/runs/{run.pk}/steps?limit=3").json()
    assert [step["index"] for step in api.get(first["next"]).json()["results"]] == [11]


@pytest.mark.django_db(transaction=True)
def test_a_turn_in_a_chat_that_is_being_deleted_finds_no_chat(api: Api, chat: Chat) -> None:
    answers: list[Any] = []
    with transaction.atomic():
        Chat.objects.filter(pk=chat.pk).delete()
        rival = in_thread(lambda: answers.append(start(api, chat)))
        wait_for_a_lock()
    rival.join()
    assert_refused(answers[0], "NOT_FOUND")


@pytest.mark.django_db(transaction=True)
def test_a_turn_that_begins_while_its_chat_is_deleted_goes_with_it(api: Api, chat: Chat) -> None:
    answers: list[Any] = []
    with transaction.atomic():
        RunFactory(chat=Chat.objects.select_for_update(no_key=True).get(pk=chat.pk))
        rival = in_thread(lambda: answers.append(api.delete(f"/api/chats/{chat.pk}")))
        wait_for_a_lock()
    rival.join()
    assert answers[0].status_code == 204
    assert not Run.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_step_that_is_recorded_while_its_chat_is_deleted_goes_with_it(api: Api, chat: Chat) -> None:
    run, answers = run_in("running", chat=chat), []
    lifecycle.request_stop(run.pk, None, "user")
    with transaction.atomic():
        lifecycle.renew(run.pk, 1)  # as the guarded UPDATE of `record_step` does
        rival = in_thread(lambda: answers.append(api.delete(f"/api/chats/{chat.pk}")))
        wait_for_a_lock()
        StepFactory(run=run)
    rival.join()
    assert answers[0].status_code == 204
    assert not Run.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_of_many_turns_at_once_one_begins(person: Any, chat: Chat) -> None:
    answers: list[Any] = []
    apis = [by_session(person) for _ in range(8)]
    rivals = [in_thread(lambda api=api: answers.append(start(api, chat))) for api in apis]
    for rival in rivals:
        rival.join()
    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 7
    (run,) = Run.objects.all()
    assert {json.loads(answer.content).get("run_id") for answer in answers} == {None, str(run.pk)}


def in_thread(act: Any) -> threading.Thread:
    def work() -> None:
        try:
            act()
        finally:
            connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def wait_for_a_lock() -> None:
    """Until somebody waits for a lock that this transaction holds."""
    with connection.cursor() as cursor:
        for _ in range(300):
            cursor.execute("SELECT pg_stat_clear_snapshot()")
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid)) OR pg_sleep(0.01) IS NULL"
            )
            if cursor.fetchone()[0]:
                return
    raise AssertionError("nobody waits")
