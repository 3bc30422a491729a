"""Every route of the schema, asked by who may not: a stranger, a colleague of the same workspace, and nobody."""

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from drf_spectacular.generators import SchemaGenerator

from agents import chunks
from chat.models import Chat, Message
from runs.ending import start_chunk
from runs.eventlog import write_whole
from runs.models import Run
from tests.api.callers import Api, Json, assert_refused, by_session, by_token, nothing_changed
from tests.factories import (
    ChatFactory,
    MembershipFactory,
    MessageFactory,
    RoleFactory,
    StepFactory,
    UserFactory,
    run_in,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis")]

CANARY = "canary"
BODIES: dict[str, Json] = {
    "chats_create": {"title": "my own"},
    "chats_rename": {"title": "taken over"},
    "chats_runs_start": {"text": "taken over"},
}


@cache
def operations() -> list[tuple[str, str, str]]:
    """(method, path, operation id) of all routes."""
    schema: Json = SchemaGenerator().get_schema(request=None, public=True)
    return [
        (method.upper(), path, operation["operationId"])
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]


@pytest.fixture
def run(chat: Chat) -> Run:
    """A live run with canaries in everything that belongs to it, and in everything around it."""
    get_user_model().objects.filter(pk=chat.created_by_id).update(username=f"{CANARY}-name")
    Chat.objects.filter(pk=chat.pk).update(title=f"{CANARY} title")
    elsewhere = MembershipFactory(user=chat.created_by).workspace  # where no colleague is
    RoleFactory(workspace=elsewhere, name=f"{CANARY} role", instructions=f"{CANARY} instructions")
    parts = [{"type": "text", "text": f"{CANARY} text", "state": "done"}]
    MessageFactory(chat=chat, parts=parts)
    run_in("failed", chat=chat, error=f"{CANARY} error")
    run = run_in("running", chat=chat, step_count=1, model=f"openai/{CANARY}", worker=f"{CANARY}@worker")
    StepFactory(run=run, parts=[{"type": "step-start"}, *parts])
    written = [start_chunk(run), chunks.start_step(), chunks.opened("text", "text-1-0")]
    write_whole(run.pk, 1, [*written, chunks.delta("text", "text-1-0", f"{CANARY} log")])
    return run


@pytest.fixture
def stranger() -> Any:
    return MembershipFactory(workspace__name="elsewhere").user


@pytest.fixture
def colleague(chat: Chat) -> Any:
    return MembershipFactory(workspace=chat.workspace, role="owner").user


def asked(api: Api, run: Run) -> Iterator[tuple[str, str, Any]]:
    """Every route with these ids in its address: (address as described, operation id, answer)."""
    for method, path, name in operations():
        address = path.format(chat=run.chat_id, run=run.pk)
        body = json.dumps(BODIES.get(name, {}))
        yield path, name, api.generic(method, address, body, "application/json")


@pytest.mark.parametrize("who", ["stranger", "colleague"])
@pytest.mark.parametrize("by", [by_session, by_token])
def test_no_route_shows_or_changes_what_is_anothers(run: Run, request: Any, who: str, by: Any) -> None:
    api = by(request.getfixturevalue(who))
    before = mine(run)
    for path, name, response in asked(api, run):
        if "{" in path:
            assert_refused(response, "NOT_FOUND")
        else:
            assert response.status_code in (200, 201), name
        # A stream that anybody may open is one's own, see tests/runs/test_feed.py.
        assert response.streaming or CANARY not in response.text, name
        assert CANARY not in str(response.headers), name
    assert mine(run) == before


def test_no_route_answers_nobody(run: Run) -> None:
    with nothing_changed():
        for _, name, response in asked(Api(), run):
            assert_refused(response, "NOT_AUTHENTICATED")
            assert CANARY not in response.text, name


def test_who_may_is_shown_it(api: Api, run: Run) -> None:
    # else the tests above would prove nothing
    silent = {"events", "models", "runs_stream", "runs_wait"}
    for method, path, name in operations():
        if method == "GET" and name not in silent:
            assert CANARY in api.get(path.format(chat=run.chat_id, run=run.pk)).text, name


@pytest.mark.parametrize("who", ["stranger", "colleague"])
def test_an_id_in_a_body_or_a_query_opens_nothing(run: Run, request: Any, who: str) -> None:
    user = request.getfixturevalue(who)
    api = by_session(user)
    own = ChatFactory(created_by=user, workspace=user.memberships.get().workspace)
    with nothing_changed():
        assert api.get(f"/api/runs?chat={run.chat_id}").json()["results"] == []
        assert api.get(f"/api/chats?q={CANARY}").json()["results"] == []
        assert_refused(api.post(f"/api/chats/{own.pk}/stop", {"run_id": str(run.pk)}), "NOT_FOUND")
        assert_refused(api.post(f"/api/chats/{own.pk}/runs", {"text": "x", "id": str(run.pk)}), "ID_TAKEN")
        assert_refused(api.post("/api/chats", {"id": str(run.chat_id)}), "ID_TAKEN")


def test_who_is_not_in_a_workspace_creates_no_chat_there(chat: Chat) -> None:
    outsider = by_session(UserFactory())
    with nothing_changed():
        assert_refused(outsider.post("/api/chats", {"workspace": str(chat.workspace_id)}), "NOT_FOUND")


def mine(run: Run) -> list[Any]:
    """All that the person owns."""
    return [
        list(model.objects.filter(**{field: run.chat_id}).order_by("pk").values())
        for model, field in ((Chat, "pk"), (Message, "chat"), (Run, "chat"))
    ]
