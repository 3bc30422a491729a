"""What reaches the application in ways that Django's client does not have: chunks, sizes, and headers given twice."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from django.core.asgi import get_asgi_application

from chat.models import Chat
from config.bodies import BodyLimit
from runs.models import Run
from tests.api.callers import STATUS_OF, token_of
from tests.factories import run_in

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis")]

MOST = 1000


@pytest.fixture
def token(person: Any) -> dict[str, str]:
    return token_of(person)


@pytest.fixture
async def client(token: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(BodyLimit(get_asgi_application(), MOST))
    headers = {**token, "Content-Type": "application/json"}
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver", headers=headers) as client:
        yield client


@pytest.fixture
def running(chat: Chat) -> Run:
    return run_in("running", chat=chat)


def assert_refused(response: httpx.Response, code: str) -> None:
    assert response.json()["code"] == code, response.text
    assert response.status_code in STATUS_OF[code]


async def chunked(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def test_a_body_in_chunks_is_read(client: httpx.AsyncClient) -> None:
    response = await client.post("/api/chats", content=chunked(b'{"title":', b' "in chunks"}'))
    assert (response.status_code, response.json()["title"]) == (201, "in chunks")
    assert_refused(await client.post("/api/chats", content=chunked(b'{"unknown":', b" 1}")), "INVALID")


async def test_a_stop_in_chunks_stops_the_run_that_was_meant_only(
    client: httpx.AsyncClient, chat: Chat, running: Run
) -> None:
    body = b'{"run_id": "01890a5d-ac96-774b-bcce-b302099a8057"}'
    assert_refused(await client.post(f"/api/chats/{chat.pk}/stop", content=chunked(body)), "RUN_MISMATCH")
    assert (await Run.objects.aget(pk=running.pk)).stop_requested_at is None


async def test_a_body_of_the_largest_size_is_read(client: httpx.AsyncClient) -> None:
    body = b'{"title": "x"}'
    assert (await client.post("/api/chats", content=body.ljust(MOST))).status_code == 201
    for larger in (body.ljust(MOST + 1), chunked(body, b" " * MOST), chunked(*[b" "] * (MOST + 1))):
        response = await client.post("/api/chats", content=larger)
        assert_refused(response, "TOO_LARGE")
        assert set(response.json()) == {"code", "detail"}
        assert response.headers["Connection"] == "close"
    assert await Chat.objects.acount() == 2


async def test_a_body_is_too_large_on_every_route(client: httpx.AsyncClient) -> None:
    for method, path in (("GET", "/api/me"), ("POST", "/api/nothing"), ("GET", "/healthz"), ("DELETE", "/")):
        assert_refused(await client.request(method, path, content=b" " * (MOST + 1)), "TOO_LARGE")


async def test_a_route_may_take_more_than_the_others(token: dict[str, str]) -> None:
    transport = httpx.ASGITransport(BodyLimit(get_asgi_application(), MOST, {"/api/chat": 2 * MOST}))
    headers = {**token, "Content-Type": "application/json"}
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver", headers=headers) as client:
        assert_refused(await client.post("/api/chat", content=b"{}".ljust(2 * MOST)), "INVALID")
        assert_refused(await client.post("/api/chat", content=chunked(b"{}", b" " * 2 * MOST)), "TOO_LARGE")
        for path in ("/api/chats", "/api/chat/", "/api/chat/x"):
            assert_refused(await client.post(path, content=b"{}".ljust(MOST + 1)), "TOO_LARGE")


async def test_two_hosts_are_none(client: httpx.AsyncClient, token: dict[str, str]) -> None:
    hosts = [("Host", "testserver"), ("Host", "evil.example")]
    for headers in (hosts, hosts[::-1]):
        request = client.build_request("GET", "/api/me")
        request.headers = httpx.Headers([*headers, *token.items()])
        assert_refused(await client.send(request), "INVALID")


async def test_two_tokens_are_none(client: httpx.AsyncClient, token: dict[str, str]) -> None:
    request = client.build_request("GET", "/api/me")
    request.headers = httpx.Headers([("Host", "testserver"), *token.items(), *token.items()])
    assert_refused(await client.send(request), "NOT_AUTHENTICATED")


async def test_a_path_of_bytes_that_are_no_text_is_not_there(client: httpx.AsyncClient) -> None:
    for path in ("/api/chats/%ff", "/api/%c0%ae%c0%ae/", "/api/runs/%ed%a0%80"):
        assert_refused(await client.get(path), "NOT_FOUND")
