"""The web process's handler, asked as uvicorn asks it."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.urls import path

from config.handler import Handler

go_on = threading.Event()
here = threading.Semaphore(0)
connections: list[Any] = []


def slow(request: HttpRequest) -> HttpResponse:
    here.release()
    go_on.wait(10)
    return HttpResponse("slow")


def asks_database(request: HttpRequest) -> HttpResponse:
    connection.ensure_connection()
    connections.append(connection.connection)
    return HttpResponse("asked")


def healthz(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


urlpatterns = [path("slow", slow), path("asks", asks_database), path("healthz", healthz)]


@pytest.fixture(autouse=True)
def _routes(settings: Any) -> None:
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = []
    settings.ALLOWED_HOSTS = ["here"]


@pytest.fixture(autouse=True)
async def _nobody_is_kept() -> AsyncIterator[None]:
    go_on.clear()
    yield
    go_on.set()


async def get(handler: Handler, path: str) -> tuple[int, bytes]:
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": path,
        "query_string": b"",
        "headers": [(b"host", b"here")],
    }
    asked = False
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if asked:
            await asyncio.Event().wait()
        asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        # A reader that never reads could keep us here for ever; nothing must be held by now.
        assert all(held.closed for held in connections)

    await handler(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


async def arrive(count: int) -> None:
    for _ in range(count):
        assert await asyncio.to_thread(here.acquire, timeout=10)


async def test_a_burst_waits_for_its_turn() -> None:
    handler = Handler(at_once=2)
    asked = [asyncio.create_task(get(handler, "/slow")) for _ in range(5)]
    await arrive(2)
    assert not here.acquire(timeout=0.2)
    go_on.set()
    assert await asyncio.gather(*asked) == [(200, b"slow")] * 5
    await arrive(3)


async def test_who_waits_too_long_is_told_to_come_back() -> None:
    handler = Handler(at_once=1, patience=0.1)
    first = asyncio.create_task(get(handler, "/slow"))
    await arrive(1)
    status, body = await get(handler, "/slow")
    assert status == 503
    assert b'"UNAVAILABLE"' in body
    assert (await get(handler, "/healthz"))[0] == 200
    go_on.set()
    assert (await first)[0] == 200
    assert (await get(handler, "/slow"))[0] == 200
    await arrive(1)


async def test_a_request_that_was_left_gives_its_place_back() -> None:
    handler = Handler(at_once=1, patience=5)
    left = asyncio.create_task(get(handler, "/slow"))
    await arrive(1)
    left.cancel()
    go_on.set()
    await asyncio.gather(left, return_exceptions=True)
    assert (await get(handler, "/slow"))[0] == 200
    await arrive(1)


@pytest.mark.django_db(transaction=True)
async def test_no_connection_is_held_while_the_answer_is_on_its_way() -> None:
    connections.clear()
    assert await get(Handler(), "/asks") == (200, b"asked")
    assert len(connections) == 1


async def test_a_file_that_is_not_there_is_a_404() -> None:
    assert (await get(Handler(), "/static/none.js"))[0] == 404


async def test_a_file_that_is_there_is_served() -> None:
    assert (await get(Handler(), "/static/chat/page.js"))[0] == 200
