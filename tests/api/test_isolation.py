"""Every route of the schema, asked by who may not: a stranger, a colleague of the same workspace, and nobody."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import AsyncClient

from agents import chunks
from chat.models import Chat, Message, Token
from runs import feed, feed_stream
from runs.database import in_thread
from runs.ending import start_chunk
from runs.eventlog import write_whole
from runs.models import Run
from tests.api.callers import Api, assert_refused, by_session, by_token, nothing_changed, token_of
from tests.api.routes import ROUTES, operations
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


@pytest.fixture
def run(chat: Chat) -> Run:
    """A live run with canaries in everything that belongs to it, and in everything around it."""
    get_user_model().objects.filter(pk=chat.created_by_id).update(username=f"{CANARY}-name")
    Chat.objects.filter(pk=chat.pk).update(title=f"{CANARY} title")
    # where no colleague is
    elsewhere = MembershipFactory(user=chat.created_by, workspace__name=f"{CANARY} workspace").workspace
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


def said(response: Any) -> str:
    """All that it says; of a stream, which is asked below, that it is one."""
    body = "a stream" if response.streaming else response.text
    return f"{response.status_code} {sorted(response.items())} {body}"


def test_every_route_is_walked() -> None:
    assert {operation.name for operation in operations()} == set(ROUTES)


@pytest.mark.parametrize("who", ["stranger", "colleague"])
@pytest.mark.parametrize("by", [by_session, by_token])
def test_no_route_shows_or_changes_what_is_anothers(run: Run, request: Any, who: str, by: Any) -> None:
    api = by(request.getfixturevalue(who))
    with nothing_changed():
        for operation in operations():
            if operation.route.makes:
                continue
            response = operation.ask(api, run)
            if operation.names_something:
                assert_refused(response, "NOT_FOUND")
            else:
                assert response.status_code == 200, operation.name
            assert CANARY not in said(response), operation.name


@pytest.mark.parametrize("who", ["stranger", "colleague"])
def test_what_somebody_makes_of_their_own_touches_nothing_of_anothers(run: Run, request: Any, who: str) -> None:
    api = by_session(request.getfixturevalue(who))
    before = owned(run)
    for operation in operations():
        if operation.route.makes:
            response = operation.ask(api, run)
            assert response.status_code == 201, operation.name
            assert CANARY not in said(response), operation.name
    assert owned(run) == before


@pytest.mark.parametrize("who", ["stranger", "colleague"])
def test_every_answer_is_the_same_whether_there_is_something_of_anothers_or_not(
    run: Run, request: Any, who: str
) -> None:
    api = by_session(request.getfixturevalue(who))

    def answers() -> list[str]:
        fixed = [operation for operation in operations() if not (operation.route.makes or operation.route.claims)]
        return [said(operation.ask(api, run)) for operation in fixed]

    while_it_is_there = answers()
    Chat.objects.filter(pk=run.chat_id).delete()
    assert answers() == while_it_is_there


@pytest.mark.parametrize("who", ["stranger", "colleague"])
@pytest.mark.parametrize("path", ["/api/chats", "/api/runs", "/api/roles", f"/api/chats?q={CANARY}"])
def test_the_lists_and_the_search_of_others_are_empty(run: Run, request: Any, who: str, path: str) -> None:
    empty = {"next": None, "previous": None, "results": []}
    assert by_session(request.getfixturevalue(who)).get(path).json() == empty


def nobody(_: Any) -> Api:
    return Api()


def with_a_revoked_token(person: Any) -> Api:
    api = by_token(person)
    Token.objects.filter(user=person).delete()
    return api


def with_an_expired_token(person: Any) -> Api:
    return Api(headers=token_of(person, expiry=timedelta(seconds=-1)))


def with_an_ended_session(person: Any) -> Api:
    api = by_session(person)
    api.session.flush()
    return api


def deactivated(person: Any) -> Api:
    get_user_model().objects.filter(pk=person.pk).update(is_active=False)
    return by_token(person)


@pytest.mark.parametrize(
    "who", [nobody, with_a_revoked_token, with_an_expired_token, with_an_ended_session, deactivated]
)
def test_no_route_answers_who_is_not_let_in(run: Run, who: Any) -> None:
    api = who(run.created_by)
    with nothing_changed():
        for operation in operations():
            response = operation.ask(api, run)
            assert_refused(response, "NOT_AUTHENTICATED")
            assert CANARY not in said(response), operation.name


def test_who_may_is_told_it(api: Api, run: Run) -> None:
    # else the tests above would prove nothing
    for operation in operations():
        if operation.method == "GET" and operation.route.tells and not operation.route.is_stream:
            assert CANARY in operation.ask(api, run).text, operation.name


@pytest.mark.parametrize("who", ["stranger", "colleague"])
def test_an_id_in_a_body_or_a_query_opens_nothing(run: Run, request: Any, who: str) -> None:
    user = request.getfixturevalue(who)
    api = by_session(user)
    own = ChatFactory(created_by=user, workspace=user.memberships.get().workspace)
    with nothing_changed():
        assert api.get(f"/api/runs?chat={run.chat_id}").json()["results"] == []
        assert_refused(api.post(f"/api/chats/{own.pk}/stop", {"run_id": str(run.pk)}), "NOT_FOUND")
        assert_refused(api.post(f"/api/chats/{own.pk}/runs", {"text": "x", "id": str(run.pk)}), "ID_TAKEN")
        assert_refused(api.post("/api/chats", {"id": str(run.chat_id)}), "ID_TAKEN")


def test_who_is_not_in_a_workspace_creates_no_chat_there(chat: Chat) -> None:
    outsider = by_session(UserFactory())
    with nothing_changed():
        assert_refused(outsider.post("/api/chats", {"workspace": str(chat.workspace_id)}), "NOT_FOUND")


def owned(run: Run) -> list[Any]:
    """All that the person owns."""
    return [
        list(model.objects.filter(**{field: run.chat_id}).order_by("pk").values())
        for model, field in ((Chat, "pk"), (Message, "chat"), (Run, "chat"))
    ]


# The streams


@asynccontextmanager
async def listening(user: Any, run: Run) -> AsyncIterator[dict[str, str]]:
    """What is heard, by name, on every stream that they may open; to the others there is nothing there."""
    client = AsyncClient()
    await client.aforce_login(user)
    heard: dict[str, str] = {}
    tasks = []
    for operation in operations():
        if not operation.route.is_stream:
            continue
        response: Any = await client.generic(
            operation.method, operation.address(run), operation.body(run), "application/json"
        )
        if response.streaming:
            heard[operation.name] = ""
            tasks.append(asyncio.create_task(listen(response, heard, operation.name)))
        else:
            assert_refused(response, "NOT_FOUND")
    yield heard
    for task in tasks:
        task.cancel()


async def listen(response: Any, heard: dict[str, str], name: str) -> None:
    async for piece in response.streaming_content:
        heard[name] += piece.decode()


async def until(wanted: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not wanted():
            await asyncio.sleep(0.01)


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("tail_ends_with_its_loop")
async def test_no_stream_tells_of_what_is_anothers(run: Run, person: Any, stranger: Any, colleague: Any) -> None:
    others = [stranger, colleague]
    own = [await in_thread(partial(ChatFactory, created_by=other, title=f"own {other.pk}")) for other in others]
    async with (
        listening(person, run) as owner,
        listening(stranger, run) as first,
        listening(colleague, run) as second,
    ):
        await until(lambda: feed_stream._ear().silence() is not None)
        await in_thread(feed._publish, [("run", run.pk), ("title", run.chat_id)])
        await until(lambda: all(CANARY in text for text in owner.values()))
        assert set(owner) == {operation.name for operation in operations() if operation.route.is_stream}
        # what came first has been heard when that which comes after it is
        await in_thread(feed._publish, [("title", chat.pk) for chat in own])
        for other, heard in zip(others, (first, second), strict=True):
            assert set(heard) == {"events"}
            await until(lambda heard=heard, other=other: f"own {other.pk}" in heard["events"])
            assert CANARY not in heard["events"]
            assert str(run.pk) not in heard["events"]
