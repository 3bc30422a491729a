"""Streams of people who may follow them no more: broken off at the next look, and by nothing else."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.sessions.models import Session
from django.db import connection
from django.db.utils import OperationalError
from django.test import AsyncClient
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from agents import chunks
from chat.models import Chat, Membership, Token
from chat.tokens import issue
from runs.api import guard
from runs.api.guard import Pass, valid
from runs.database import in_thread
from runs.errors import BrokenOff
from runs.eventlog import write_whole
from runs.models import Run
from tests.api.test_stream import append, saying
from tests.factories import ChatFactory, run_in

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis", "tail_ends_with_its_loop")]


@pytest.fixture
def live(chat: Chat) -> Run:
    run = run_in("running", chat=chat)
    write_whole(run.pk, 1, saying(run, "a"))
    return run


def log_out(person: Any) -> None:
    Session.objects.all().delete()


def change_password(person: Any) -> None:
    person.set_password("another one")
    person.save()


def deactivate(person: Any) -> None:
    type(person).objects.filter(pk=person.pk).update(is_active=False)


def expire_session(person: Any) -> None:
    Session.objects.update(expire_date=timezone.now() - timedelta(seconds=1))


def leave(person: Any) -> None:
    Membership.objects.filter(user=person).delete()


def give_away(person: Any) -> None:
    Chat.objects.update(created_by=ChatFactory().created_by)


def revoke(person: Any) -> None:
    Token.objects.all().delete()


def expire_token(person: Any) -> None:
    Token.objects.update(expiry=timezone.now() - timedelta(seconds=1))


def nothing(person: Any) -> None:
    """What is done to other people."""
    other = ChatFactory().created_by
    leave(other)
    deactivate(other)


BY_SESSION = [log_out, change_password, deactivate, expire_session, leave, give_away]
BY_TOKEN = [revoke, expire_token, deactivate, leave, give_away]


async def followed(run: Run, client: AsyncClient, happens: Callable[[Any], None], person: Any, **headers: str) -> bool:
    """Whether a reader of the run who has read something reads more after that."""
    response = await client.get(f"/api/runs/{run.pk}/stream", headers=headers)
    assert response.status_code == 200
    pieces = aiter(response.streaming_content)
    assert b"start" in await anext(pieces)
    await in_thread(happens, person)
    await in_thread(guard.check)
    await in_thread(write_more, run)
    try:
        return b'"b"' in await anext(pieces)
    except BrokenOff:
        return False
    finally:
        response.close()


def write_more(run: Run) -> None:
    append(run, [chunks.delta("text", "text-0-0", "b")], len(saying(run, "a")) + 1)


@pytest.mark.parametrize("happens", [*BY_SESSION, nothing])
async def test_a_session_is_asked_for_again(live: Run, person: Any, happens: Callable[[Any], None]) -> None:
    client = AsyncClient()
    await client.aforce_login(person)
    assert await followed(live, client, happens, person) == (happens is nothing)


@pytest.mark.parametrize("happens", [*BY_TOKEN, nothing, log_out, change_password])
async def test_a_token_is_asked_for_again(live: Run, person: Any, happens: Callable[[Any], None]) -> None:
    _, secret = await in_thread(lambda: issue(person, "a program", timedelta(days=1)))
    goes_on = happens not in BY_TOKEN
    assert await followed(live, AsyncClient(), happens, person, Authorization=f"Token {secret}") == goes_on


async def test_an_outage_shuts_nobody_out(live: Run, person: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client = AsyncClient()
    await client.aforce_login(person)

    def goes_away(_: Any) -> None:
        monkeypatch.setattr(guard, "valid", unreachable)
        with pytest.raises(OperationalError):
            guard.check()
        monkeypatch.setattr(guard, "valid", valid)

    def unreachable(_: Any) -> None:
        raise OperationalError

    assert await followed(live, client, goes_away, person)


def test_any_number_of_streams_takes_a_few_queries(person: Any) -> None:
    chats = ChatFactory.create_batch(20)
    tokens = [issue(chat.created_by, "a program", timedelta(days=1))[0] for chat in chats]
    passes = [Pass(chat.created_by_id, token.pk, None, chat.pk) for chat, token in zip(chats, tokens, strict=True)]
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert valid(passes) == set(passes)
    assert len(queries) <= 4
    # a token of somebody else's lets nobody in
    crossed = [Pass(chats[0].created_by_id, tokens[1].pk, None, chats[0].pk)]
    assert valid(crossed) == set()


@pytest.mark.parametrize("path", ["/api/runs/{run}/stream", "/api/chat/{chat}/stream", "/api/events"])
async def test_every_stream_is_watched(live: Run, person: Any, path: str) -> None:
    client = AsyncClient()
    await client.aforce_login(person)
    response = await client.get(path.format(run=live.pk, chat=live.chat_id))
    await anext(aiter(response.streaming_content))
    (watch,) = guard._watches
    expected_chat = None if path == "/api/events" else live.chat_id
    assert (watch.held.user_id, watch.held.chat_id) == (person.pk, expected_chat)
    assert await in_thread(valid, [watch.held]) == {watch.held}
    response.close()
