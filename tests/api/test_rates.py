"""How often and how much one person may: exactly so much, however many try at once, and without Redis too."""

import time
from typing import Any
from uuid import uuid4

import pytest
from django.test import AsyncClient
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from structlog.testing import capture_logs

from chat.models import Chat
from runs import dispatch
from runs.api import open_streams, rates
from runs.database import in_thread
from runs.models import EarlyStop, Run
from tests.api.callers import Api, assert_refused, by_session, by_token
from tests.api.test_idempotency import at_once
from tests.api.test_runs import start
from tests.factories import ChatFactory, RunFactory, UserFactory, run_in

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis")]

several_connections = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _no_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    outage = rates.Outage()
    monkeypatch.setattr(rates, "outage", outage)
    monkeypatch.setattr(open_streams, "outage", outage)
    monkeypatch.setattr(open_streams, "_open", type(open_streams._open)())
    monkeypatch.setattr(dispatch, "send", lambda *_: True)


@pytest.fixture
def redis_is_away(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A port at which nobody listens."""
    away = Redis(port=1, retry=Retry(NoBackoff(), 0))
    windows = rates._windows
    windows.cache_clear()
    monkeypatch.setattr(rates, "control", lambda: away)
    monkeypatch.setattr(open_streams, "control", lambda: away)
    yield
    windows.cache_clear()


def retry_after(response: Any) -> int:
    return int(response["Retry-After"])


def chats_of(chat: Chat, count: int) -> list[Chat]:
    return [ChatFactory(created_by=chat.created_by, workspace=chat.workspace) for _ in range(count)]


def test_of_sixty_tries_at_once_exactly_ten_are_welcome() -> None:
    waits = at_once(60, lambda: rates.seconds_to_wait("starts", 10, "somebody"))
    assert waits.count(0) == 10
    assert all(50 <= wait <= 60 for wait in waits if wait)


def test_a_limit_is_of_one_person_and_one_thing() -> None:
    assert [rates.seconds_to_wait("starts", 1, who) for who in ("a", "b")] == [0, 0]
    assert rates.seconds_to_wait("streams", 1, "a") == 0
    assert rates.seconds_to_wait("starts", 1, "a") > 0


def test_what_was_refused_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(5):
        rates.seconds_to_wait("starts", 1, "a")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 61)
    assert rates.seconds_to_wait("starts", 1, "a") == 0


def test_starts_are_limited_in_a_minute(api: Api, chat: Chat, settings: Any) -> None:
    settings.LIMIT_STARTS_PER_MINUTE = 2
    one, two, three = chats_of(chat, 3)
    assert [start(api, one).status_code, start(api, two).status_code] == [202, 202]
    response = start(api, three)
    assert_refused(response, "RATE_LIMITED")
    assert 50 <= retry_after(response) <= 60
    other = ChatFactory(workspace=chat.workspace)
    assert start(by_session(other.created_by), other).status_code == 202


def test_stops_of_runs_that_nobody_knows_are_limited_in_a_minute(api: Api, chat: Chat, settings: Any) -> None:
    settings.LIMIT_STARTS_PER_MINUTE = 2
    codes = [api.post(f"/api/runs/{uuid4()}/stop").status_code for _ in range(3)]
    assert (codes, EarlyStop.objects.count()) == ([404, 404, 429], 2)
    # any other stop is not
    assert api.post(f"/api/runs/{run_in('running', chat=chat).pk}/stop").status_code == 200


@several_connections
def test_of_runs_begun_at_once_as_many_are_active_as_may_be(chat: Chat, settings: Any) -> None:
    settings.LIMIT_ACTIVE_RUNS = 5
    program, chats = by_token(chat.created_by), chats_of(chat, 20)
    answers = at_once(20, lambda: start(program, chats.pop()))
    assert sorted(answer.status_code for answer in answers) == [202] * 5 + [429] * 15
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert_refused(refused, "TOO_MANY_ACTIVE_RUNS")
    assert retry_after(refused) > 0
    assert Run.objects.active().count() == 5


def test_runs_that_ended_and_those_of_others_take_nobodys_place(api: Api, chat: Chat, settings: Any) -> None:
    settings.LIMIT_ACTIVE_RUNS = 1
    run_in("succeeded", chat=chat)
    RunFactory()
    assert start(api, chat).status_code == 202


def test_the_same_request_again_takes_no_place(api: Api, chat: Chat, settings: Any) -> None:
    settings.LIMIT_ACTIVE_RUNS = 1
    body, headers = {"text": "hello"}, {"Idempotency-Key": "a"}
    statuses = [api.post(f"/api/chats/{chat.pk}/runs", body, headers=headers).status_code for _ in range(2)]
    assert statuses == [202, 200]


@pytest.mark.parametrize("name", ["", "ACTIVE_RUNS", "STARTS_PER_MINUTE", "STREAMS", "STREAMS_PER_MINUTE"])
def test_zero_is_no_limit(api: Api, chat: Chat, settings: Any, name: str) -> None:
    if name:
        setattr(settings, f"LIMIT_{name}", 0)
    assert all(start(api, one).status_code == 202 for one in chats_of(chat, 3))


# Streams


def opened(user: object = "somebody") -> open_streams.CountedStream | None:
    return open_streams.counted(user)


def places(redis: Any, user: object = "somebody") -> int:
    count: int = redis.zcard(f"streams:{user}")
    return count


def test_so_many_streams_are_open_at_once(settings: Any, redis: Any) -> None:
    settings.LIMIT_STREAMS = 3
    found = [one for one in at_once(20, opened) if one]
    assert (len(found), places(redis)) == (3, 3)
    assert opened("somebody else")
    assert opened() is None
    found.pop().close()
    assert opened()


def test_a_stream_that_is_closed_closes_what_it_counts(settings: Any) -> None:
    settings.LIMIT_STREAMS = 1
    inner, outer = opened("another"), opened("somebody")
    assert inner
    assert outer
    outer.carrying(inner).close()
    assert opened("another")


def test_the_places_of_a_process_that_died_come_free(settings: Any, redis: Any, monkeypatch: Any) -> None:
    settings.LIMIT_STREAMS = 1
    monkeypatch.setattr(open_streams, "LEASE_SECONDS", 1)
    dead = opened()
    assert dead
    open_streams._open.discard(dead)  # nobody renews its place any more
    assert opened() is None
    time.sleep(1.1)  # by the clock of Redis
    assert opened()


def test_a_place_comes_free_beside_one_that_lasts(settings: Any, redis: Any, monkeypatch: Any) -> None:
    settings.LIMIT_STREAMS = 2
    with monkeypatch.context() as patch:
        patch.setattr(open_streams, "LEASE_SECONDS", 1)
        dead = opened()
    lasting = opened()
    assert opened() is None
    time.sleep(1.1)
    assert opened()
    assert dead
    assert lasting


def test_a_stream_that_lasts_keeps_its_place(settings: Any, redis: Any, monkeypatch: Any) -> None:
    settings.LIMIT_STREAMS = 1
    monkeypatch.setattr(open_streams, "LEASE_SECONDS", 1)
    lasting = opened()
    monkeypatch.setattr(open_streams, "LEASE_SECONDS", 30)
    open_streams.renew()
    time.sleep(1.1)
    assert opened() is None
    assert lasting


def test_a_redis_that_forgot_is_told_again(settings: Any, redis: Any) -> None:
    settings.LIMIT_STREAMS = 1
    lasting = opened()
    redis.flushdb()
    open_streams.renew()
    assert places(redis) == 1
    assert opened() is None
    assert lasting


def test_a_stream_that_was_lost_is_renewed_no_more(settings: Any, redis: Any) -> None:
    settings.LIMIT_STREAMS = 1
    opened()
    redis.flushdb()
    open_streams.renew()
    assert places(redis) == 0


@several_connections
async def test_the_stream_of_a_run_is_counted(chat: Chat, settings: Any, redis: Any) -> None:
    settings.LIMIT_STREAMS = 2
    reader, run = AsyncClient(), await in_thread(lambda: run_in("pending", chat=chat))
    await reader.aforce_login(chat.created_by)
    path = f"/api/runs/{run.pk}/stream"
    first, second = [await reader.get(path) for _ in range(2)]
    third = await reader.get(path)
    assert (first.status_code, second.status_code) == (200, 200)
    assert_refused(third, "TOO_MANY_STREAMS")
    assert retry_after(third) > 0
    # a look at the headers is no stream
    assert (await reader.head(path)).status_code == 200
    await in_thread(first.close)
    assert (await reader.get(path)).status_code == 200


def test_streams_opened_are_limited_in_a_minute(api: Api, chat: Chat, settings: Any) -> None:
    settings.LIMIT_STREAMS_PER_MINUTE = 1
    path = f"/api/runs/{run_in('succeeded', chat=chat).pk}/stream"
    assert api.get(path).status_code == 200
    response = api.get(path)
    assert_refused(response, "RATE_LIMITED")
    assert retry_after(response) > 0


# Logins


def log_in(username: str, path: str = "/login", address: str = "10.0.0.1", **options: Any) -> Any:
    form = {"username": username, "password": "wrong"}
    return Api().post(path, form, "application/x-www-form-urlencoded", REMOTE_ADDR=address, **options)


@pytest.fixture(autouse=True)
def _forms(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # the real one takes its time
    from urllib.parse import urlencode

    encode = Api._encode_data

    def encoded(self: Api, data: Any, content_type: str) -> Any:
        return urlencode(data).encode() if "urlencoded" in content_type else encode(self, data, content_type)

    monkeypatch.setattr(Api, "_encode_data", encoded)


@pytest.mark.parametrize("path", ["/login", "/admin/login/"])
def test_logins_are_limited_by_name_and_address(settings: Any, path: str) -> None:
    settings.LIMIT_LOGINS_PER_MINUTE = 3
    assert [log_in("mallory", path).status_code for _ in range(4)] == [200, 200, 200, 429]
    assert 50 <= retry_after(log_in("mallory", path)) <= 60
    assert log_in("ｍallory", path).status_code == 429  # another spelling of the same name
    assert log_in("alice", path).status_code == 200
    assert log_in("mallory", path, "10.0.0.2").status_code == 200
    assert Api().get(path).status_code == 200


def test_the_right_password_does_not_help_who_tried_too_often(settings: Any) -> None:
    settings.LIMIT_LOGINS_PER_MINUTE = 1
    user = UserFactory(username="alice")
    user.set_password("right")
    user.save(update_fields=["password"])
    log_in("alice")
    api = Api()
    form = {"username": "alice", "password": "right"}
    response = api.post("/login", form, "application/x-www-form-urlencoded", REMOTE_ADDR="10.0.0.1")
    assert (response.status_code, "_auth_user_id" in api.session) == (429, False)


# Without Redis


@pytest.mark.usefixtures("redis_is_away")
def test_without_redis_everybody_is_welcome_and_one_line_says_so(
    api: Api, chat: Chat, settings: Any, monkeypatch: Any
) -> None:
    settings.LIMIT_STARTS_PER_MINUTE = settings.LIMIT_STREAMS = settings.LIMIT_STREAMS_PER_MINUTE = 1
    settings.LIMIT_LOGINS_PER_MINUTE = 1
    monkeypatch.setattr(rates, "OUTAGE_SECONDS", 0.0)  # every time anew
    with capture_logs() as logs:
        assert all(start(api, one).status_code == 202 for one in chats_of(chat, 3))
        streams = [opened() for _ in range(3)]
        assert all(streams)
        streams[0].close()  # type: ignore[union-attr]
        open_streams.renew()
        assert [log_in("mallory").status_code for _ in range(3)] == [200] * 3
    assert [log["event"] for log in logs].count("limits_not_enforced") == 1


@pytest.mark.usefixtures("redis_is_away")
def test_a_redis_that_is_away_is_not_asked_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rates.seconds_to_wait("starts", 1, "a")
    monkeypatch.setattr(rates, "_windows", lambda: pytest.fail("was asked"))
    assert rates.seconds_to_wait("starts", 1, "a") == 0


def test_limits_hold_again_when_redis_is_back_and_the_next_outage_is_told_of(monkeypatch: Any) -> None:
    monkeypatch.setattr(rates, "OUTAGE_SECONDS", 0.0)
    with capture_logs() as logs:
        for _ in range(2):
            rates.outage.begin(OSError())
            rates.outage.begin(OSError())
            rates.seconds_to_wait("starts", 1, "a")
    assert [log["event"] for log in logs] == ["limits_not_enforced"] * 2
    assert rates.seconds_to_wait("starts", 1, "a") > 0


def test_a_stream_that_was_opened_in_an_outage_counts_after_it(settings: Any, redis: Any) -> None:
    settings.LIMIT_STREAMS = 1
    rates.outage.begin(OSError())
    lasting = opened()
    rates.outage._until = 0.0
    open_streams.renew()
    assert (places(redis), opened()) == (1, None)
    assert lasting
