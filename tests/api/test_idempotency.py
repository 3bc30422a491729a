"""Idempotency keys: the same request finds the run it made, for a day."""

from collections.abc import Callable
from datetime import timedelta
from threading import Barrier, Thread
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now

from chat.models import Chat, Message
from runs import dispatch, sweep
from runs.models import Run
from tests.api.callers import Api, assert_refused, by_session, by_token
from tests.factories import ChatFactory, RunFactory, run_in

pytestmark = pytest.mark.django_db

KEY = "a key"


def start(api: Api, chat: Chat, key: str | None = KEY, **fields: Any) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    return api.post(f"/api/chats/{chat.pk}/runs", {"text": "hello", **fields}, headers=headers)


def of_age(run: Any, **age: float) -> None:
    Run.objects.filter(pk=run.json()["id"]).update(created_at=Now() - timedelta(**age))


def end(run_id: str) -> None:
    Run.objects.filter(pk=run_id).update(status="aborted", end_reason="stopped", finished_at=Now())


def at_once(count: int, work: Callable[[], Any]) -> list[Any]:
    barrier, answers = Barrier(count), []

    def rival() -> None:
        barrier.wait()
        try:
            answers.append(work())
        finally:
            connection.close()

    rivals = [Thread(target=rival) for _ in range(count)]
    for thread in rivals:
        thread.start()
    for thread in rivals:
        thread.join()
    return answers


def test_the_same_key_and_body_find_the_same_run(api: Api, chat: Chat) -> None:
    first, again = start(api, chat), start(api, chat)
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.json() == first.json()
    assert again["Location"] == first["Location"]
    assert (first.get("Idempotent-Replayed"), again["Idempotent-Replayed"]) == (None, "true")
    assert Message.objects.count() == 2


def test_a_key_is_looked_at_before_the_active_run_and_after_the_end(api: Api, chat: Chat) -> None:
    first = start(api, chat).json()
    end(first["id"])
    run_in("running", chat=chat)
    assert start(api, chat).json()["id"] == first["id"]


def test_the_same_key_with_another_request_is_refused(api: Api, chat: Chat, person: Any) -> None:
    first = start(api, chat)
    elsewhere = ChatFactory(created_by=person, workspace=chat.workspace)
    others = [
        start(api, chat, text="other"),
        start(api, chat, model="openai/other"),
        start(api, chat, limits={"steps": 1}),
        start(api, chat, id=str(uuid4())),
        start(api, chat, id=first.json()["id"]),
        start(api, elsewhere),
    ]
    for response in others:
        assert_refused(response, "IDEMPOTENCY_CONFLICT")
    assert Run.objects.count() == 1


def test_an_id_belongs_to_the_request(api: Api, chat: Chat) -> None:
    chosen = str(uuid4())
    assert start(api, chat, id=chosen).status_code == 202
    for key in (KEY, None, "another key"):
        again = start(api, chat, key, id=chosen)
        assert (again.status_code, again["Idempotent-Replayed"]) == (200, "true")
    for other in ({}, {"id": str(uuid4())}):
        assert_refused(start(api, chat, **other), "IDEMPOTENCY_CONFLICT")


def test_a_key_is_its_persons(api: Api, chat: Chat) -> None:
    other = ChatFactory(workspace=chat.workspace)
    mine, theirs = start(api, chat), start(by_session(other.created_by), other)
    assert (mine.status_code, theirs.status_code) == (202, 202)
    assert mine.json()["id"] != theirs.json()["id"]


def test_without_a_key_a_request_is_a_new_one(api: Api, chat: Chat) -> None:
    first = start(api, chat, None).json()["id"]
    end(first)
    assert start(api, chat, None).status_code == 202


@pytest.mark.parametrize(("hours", "replayed"), [(23.9, True), (24.1, False)])
def test_a_key_lasts_a_day(api: Api, chat: Chat, hours: float, replayed: bool) -> None:
    first = start(api, chat)
    of_age(first, hours=hours)
    end(first.json()["id"])
    again = start(api, chat)
    assert again.status_code == (200 if replayed else 202)
    assert (again.json()["id"] == first.json()["id"]) == replayed


@pytest.mark.usefixtures("redis")
def test_the_sweep_removes_expired_keys(api: Api, chat: Chat, person: Any) -> None:
    old, young = start(api, chat), start(api, ChatFactory(created_by=person, workspace=chat.workspace), "young")
    of_age(old, hours=24.1)
    sweep.sweep()
    keys = dict(Run.objects.values_list("pk", "idempotency_key"))
    assert sorted(keys.values()) == ["", "young"]
    assert str(next(pk for pk, key in keys.items() if key)) == young.json()["id"]


@pytest.mark.parametrize("key", ["", " ", "é", "a\tb", "x" * 256, "x" * 1024, " a"])
def test_a_key_that_is_none_is_refused(api: Api, chat: Chat, key: str) -> None:
    assert_refused(start(api, chat, key), "INVALID", "Idempotency-Key")
    assert not Run.objects.exists()


@pytest.mark.parametrize("key", ["x", "x" * 255, '"8e03978e-40d5-43dd-bc93-6894a57f9324"', "a b", "0"])
def test_a_key_is_any_line_of_text(api: Api, chat: Chat, key: str) -> None:
    assert start(api, chat, key).status_code == 202
    assert start(api, chat, key).status_code == 200


def test_a_run_whose_insert_lost_to_a_deleted_key_is_made_anew(api: Api, chat: Chat, monkeypatch: Any) -> None:
    """The rival's run is there when ours is inserted, and gone when it is looked for."""
    rival = RunFactory(chat=ChatFactory(created_by=chat.created_by, workspace=chat.workspace), idempotency_key=KEY)
    replayed = dispatch._replayed
    asked = []

    def blind(wanted: dispatch.Start) -> Run | None:
        asked.append(wanted)
        if len(asked) == 3:
            rival.delete()
        return None if len(asked) < 3 else replayed(wanted)

    monkeypatch.setattr(dispatch, "_replayed", blind)
    assert start(api, chat).status_code == 202
    assert len(asked) > 3


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("redis")
def test_twenty_requests_at_once_with_one_key_make_one_run(chat: Chat) -> None:
    program = by_token(chat.created_by)
    answers = at_once(20, lambda: start(program, chat))
    assert sorted(answer.status_code for answer in answers) == [200] * 19 + [202]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert (Run.objects.count(), Message.objects.count()) == (1, 2)


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("redis")
def test_one_key_in_several_chats_at_once_makes_one_run(chat: Chat) -> None:
    program = by_token(chat.created_by)
    chats = [chat, *(ChatFactory(created_by=chat.created_by, workspace=chat.workspace) for _ in range(5))]
    answers = at_once(6, lambda: start(program, chats.pop()))
    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 5
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"IDEMPOTENCY_CONFLICT"}
    assert (Run.objects.count(), Message.objects.count()) == (1, 2)


def test_code_that_knows_no_keys_still_starts_runs() -> None:
    """While a deploy is under way: its INSERT leaves the columns out."""
    run = RunFactory()
    columns = [f.column for f in Run._meta.fields if f.column not in ("id", "idempotency_key", "attached_seen_at")]
    names = ", ".join(columns)
    with transaction.atomic(), connection.cursor() as cursor:
        end(run.pk)
        values = names.replace("message_id", "NULL")
        cursor.execute(f"INSERT INTO runs_run (id, {names}) SELECT %s, {values} FROM runs_run", [uuid4()])
    assert Run.objects.filter(idempotency_key="", attached_seen_at=None).count() == 2
