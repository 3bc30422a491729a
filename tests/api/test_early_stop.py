"""Stops that come before the run they are for."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import transaction
from django.db.models.functions import Now

from chat.models import Chat
from runs import dispatch, early_stop, sweep
from runs.models import EarlyStop, Run
from tests.api.callers import Api, assert_refused, by_session
from tests.api.test_runs import in_thread, start, wait_for_a_lock
from tests.factories import ChatFactory, RunFactory
from tests.runs.conftest import audit

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis")]


@pytest.fixture(autouse=True)
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    messages: list[Any] = []
    monkeypatch.setattr(dispatch, "send", lambda *held: messages.append(held))
    return messages


@pytest.fixture
def chosen() -> str:
    return str(uuid4())


def stop(api: Api, run_id: str, chat: Chat | None = None) -> Any:
    if chat is None:
        return api.post(f"/api/runs/{run_id}/stop")
    return api.post(f"/api/chats/{chat.pk}/stop", {"run_id": run_id})


@pytest.mark.parametrize("by_chat", [False, True])
@pytest.mark.django_db(transaction=True)
def test_a_run_that_was_stopped_before_it_began_is_born_aborted(
    api: Api, chat: Chat, person: Any, chosen: str, by_chat: bool, sent: list[Any]
) -> None:
    assert_refused(stop(api, chosen, chat if by_chat else None), "NOT_FOUND")
    response = start(api, chat, id=chosen)
    run = response.json()
    assert response.status_code == 202
    assert (run["id"], run["status"], run["end_reason"]) == (chosen, "aborted", "stopped")
    assert (run["stop_requested_by"], run["stop_source"], run["started_at"]) == (person.pk, "user", None)
    audit(Run.objects.get())
    # and nothing is ever sent for it
    sweep.sweep()
    assert sent == []


def test_a_chat_goes_on_after_a_run_that_was_born_aborted(api: Api, chat: Chat, chosen: str) -> None:
    stop(api, chosen)
    start(api, chat, id=chosen)
    assert (start(api, chat, id=chosen).status_code, start(api, chat).status_code) == (200, 202)


def test_a_stop_is_remembered_for_its_caller_only(api: Api, chat: Chat, chosen: str) -> None:
    other = ChatFactory(workspace=chat.workspace)
    stop(by_session(other.created_by), chosen)
    assert start(api, chat, id=chosen).json()["status"] == "pending"


@pytest.mark.parametrize(("minutes", "status"), [(4.9, "aborted"), (5.1, "pending")])
def test_a_stop_is_remembered_for_five_minutes(api: Api, chat: Chat, chosen: str, minutes: float, status: str) -> None:
    stop(api, chosen)
    EarlyStop.objects.update(created_at=Now() - timedelta(minutes=minutes))
    sweep.sweep()
    assert EarlyStop.objects.exists() == (status == "aborted")
    assert start(api, chat, id=chosen).json()["status"] == status


def test_an_expired_stop_counts_for_nothing_before_the_sweep_too(api: Api, chat: Chat, chosen: str) -> None:
    stop(api, chosen)
    EarlyStop.objects.update(created_at=Now() - timedelta(minutes=5.1))
    assert start(api, chat, id=chosen).json()["status"] == "pending"


def test_a_stop_that_is_repeated_is_remembered_anew(api: Api, chat: Chat, chosen: str) -> None:
    stop(api, chosen)
    EarlyStop.objects.update(created_at=Now() - timedelta(minutes=5.1))
    assert_refused(stop(api, chosen), "NOT_FOUND")
    assert EarlyStop.objects.count() == 1
    assert start(api, chat, id=chosen).json()["status"] == "aborted"


def test_a_run_in_the_way_is_told_of_as_ever(api: Api, chat: Chat, chosen: str) -> None:
    stop(api, chosen)
    RunFactory(chat=chat)
    assert_refused(start(api, chat, id=chosen), "A_RUN_ALREADY_ACTIVE")


def test_the_stop_of_somebody_elses_run_is_answered_like_that_of_none(api: Api, chosen: str) -> None:
    foreign = RunFactory()
    known, unknown = stop(api, str(foreign.pk)), stop(api, chosen)
    assert (known.status_code, known.content) == (unknown.status_code, unknown.content)
    foreign.refresh_from_db()
    assert foreign.stop_requested_at is None


@pytest.mark.django_db(transaction=True)
def test_a_stop_in_the_middle_of_its_create_waits_and_stops_the_run(api: Api, chat: Chat, chosen: str) -> None:
    """The create has looked for a stop and found none, and nobody sees its run yet."""
    answers: list[Any] = []
    with transaction.atomic():
        assert start(api, chat, id=chosen).json()["status"] == "pending"
        rival = in_thread(lambda: answers.append(stop(by_session(chat.created_by), chosen)))
        wait_for_a_lock()
    rival.join()
    assert (answers[0].status_code, answers[0].json()["state"]) == (200, "stopped")


@pytest.mark.django_db(transaction=True)
def test_a_create_in_the_middle_of_its_stop_waits_and_is_born_aborted(api: Api, chat: Chat, chosen: str) -> None:
    """The stop has looked for the run and found none, and nobody sees what it remembers yet."""
    answers: list[Any] = []
    with transaction.atomic():
        assert early_stop.remember(chosen, chat.created_by)  # type: ignore[arg-type]
        rival = in_thread(lambda: answers.append(start(by_session(chat.created_by), chat, id=chosen)))
        wait_for_a_lock()
    rival.join()
    assert answers[0].json()["status"] == "aborted"
