"""Stops: of a run and of whatever runs in a chat."""

from typing import Any
from uuid import uuid4

import pytest

from chat.models import Chat
from runs.models import Run
from tests.api.callers import Api, assert_refused, rows
from tests.factories import ChatFactory, RunFactory, run_in

pytestmark = pytest.mark.django_db

ACTIVE = {"pending": (True, "stopped", "aborted"), "running": (True, "requested", "running")}
ENDED = {status: (False, "already_final", status) for status in ("succeeded", "failed", "aborted")}


def answered(response: Any) -> tuple[bool, str, str | None]:
    assert response.status_code == 200, response.text
    body = response.json()
    assert set(body) == {"stopped", "state", "run"}
    return body["stopped"], body["state"], body["run"] and body["run"]["status"]


@pytest.mark.parametrize("status", ACTIVE | ENDED)
def test_a_stop_says_what_it_did(api: Api, chat: Chat, person: Any, status: str) -> None:
    run = run_in(status, chat=chat)
    response = api.post(f"/api/runs/{run.pk}/stop")
    assert answered(response) == (ACTIVE | ENDED)[status]
    run.refresh_from_db()
    stopped = status in ACTIVE
    assert (run.stop_requested_by == person, run.stop_source == "user") == (stopped, stopped)
    assert (response.json()["run"]["stop_requested_by"] == person.pk) == stopped


@pytest.mark.parametrize("status", ACTIVE)
def test_a_stop_repeated_takes_no_effect(api: Api, chat: Chat, status: str) -> None:
    path = f"/api/runs/{run_in(status, chat=chat).pk}/stop"
    api.post(path)
    before = rows()
    assert (
        answered(api.post(path))
        == {
            "pending": (False, "already_final", "aborted"),
            "running": (False, "requested", "running"),
        }[status]
    )
    assert rows() == before


@pytest.mark.parametrize("status", ACTIVE)
def test_a_chat_is_stopped_whatever_runs_there(api: Api, chat: Chat, status: str) -> None:
    run_in("succeeded", chat=chat)
    run = run_in(status, chat=chat)
    response = api.post(f"/api/chats/{chat.pk}/stop")
    assert answered(response) == ACTIVE[status]
    assert response.json()["run"]["id"] == str(run.pk)


def test_a_chat_in_which_nothing_runs_is_idle(api: Api, chat: Chat) -> None:
    run_in("succeeded", chat=chat)
    assert answered(api.post(f"/api/chats/{chat.pk}/stop")) == (False, "idle", None)


def test_a_chat_is_stopped_if_the_run_is_the_one_that_was_meant(api: Api, chat: Chat) -> None:
    run = run_in("running", chat=chat)
    assert answered(api.post(f"/api/chats/{chat.pk}/stop", {"run_id": str(run.pk)})) == ACTIVE["running"]


def test_another_run_than_the_one_that_was_meant_goes_on(api: Api, chat: Chat) -> None:
    ended, run = run_in("aborted", chat=chat), run_in("running", chat=chat)
    foreign = RunFactory()
    for meant in (ended.pk, foreign.pk, uuid4()):
        body = assert_refused(api.post(f"/api/chats/{chat.pk}/stop", {"run_id": str(meant)}), "RUN_MISMATCH")
        assert body["run_id"] == str(run.pk)
    assert not Run.objects.exclude(stop_requested_at=None).exists()


def test_the_run_that_was_meant_has_ended_already(api: Api, chat: Chat) -> None:
    ended = run_in("succeeded", chat=chat)
    run_in("failed", chat=chat)
    response = api.post(f"/api/chats/{chat.pk}/stop", {"run_id": str(ended.pk)})
    assert answered(response) == ENDED["succeeded"]


def test_a_run_of_another_chat_is_not_there(api: Api, chat: Chat, person: Any) -> None:
    elsewhere = RunFactory(chat=ChatFactory(created_by=person, workspace=chat.workspace))
    foreign = RunFactory(chat=ChatFactory(workspace=chat.workspace))
    before = rows()
    path = f"/api/chats/{chat.pk}/stop"
    answers = [api.post(path, {"run_id": str(meant)}) for meant in (elsewhere.pk, foreign.pk, uuid4())]
    for answer in answers:
        assert_refused(answer, "NOT_FOUND")
    assert len({answer.content for answer in answers}) == 1
    assert rows() == before


@pytest.mark.parametrize("body", [{"status": "succeeded"}, {"force": True}, {"reason": "x" * 1000}, {"run": "x"}])
def test_a_stop_takes_nothing_else(api: Api, chat: Chat, body: dict[str, Any]) -> None:
    run = run_in("running", chat=chat)
    before = rows()
    for path in (f"/api/chats/{chat.pk}/stop", f"/api/runs/{run.pk}/stop"):
        assert_refused(api.post(path, body), "INVALID", *body)
    assert rows() == before


@pytest.mark.parametrize("method", ["get", "head", "put", "patch", "delete", "options", "trace"])
def test_only_a_post_stops(api: Api, chat: Chat, method: str) -> None:
    run = run_in("running", chat=chat)
    before = rows()
    for path in (f"/api/chats/{chat.pk}/stop", f"/api/runs/{run.pk}/stop"):
        response = getattr(api, method)(path)
        assert response.status_code == 405
        assert response["Allow"] == "POST"
    assert rows() == before
