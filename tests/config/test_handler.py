"""The web process's handler, asked as uvicorn asks it."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from django.db import connection
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path

from config.handler import Handler

go_on = threading.Event()
here = threading.Semaphore(0)
connections: list[Any] = []
bodies: list["Body"] = []


def slow(request: HttpRequest) -> HttpResponse:
    here.release()
    go_on.wait(10)
    return HttpResponse("slow")


def asks_database(request: HttpRequest) -> HttpResponse:
    connection.ensure_connection()
    connections.append(connection.connection)
    return HttpResponse("asked")


class Body:
    """A body as `runs.attached` has one: it wants to know of its end."""

    def __init__(self, breaks: bool) -> None:
        self._breaks = breaks
        self.begun, self.closed = asyncio.Event(), threading.Event()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces()

    async def _pieces(self) -> AsyncIterator[bytes]:
        self.begun.set()
        yield b"a"
        if self._breaks:
            raise ValueError("broken")
        await asyncio.sleep(60)

    def close(self) -> None:
        self.closed.set()


def streams(request: HttpRequest) -> StreamingHttpResponse:
    bodies.append(Body("broken" in request.GET))
    here.release()
    if "slowly" in request.GET:
        go_on.wait(10)
    return StreamingHttpResponse(bodies[-1])


def healthz(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


urlpatterns = [path("slow", slow), path("asks", asks_database), path("healthz", healthz), path("streams", streams)]


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


def scope(path: str, query: bytes = b"") -> dict[str, Any]:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": path,
        "query_string": query,
        "headers": [(b"host", b"here")],
    }


async def get(handler: Handler, path: str) -> tuple[int, bytes]:
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

    await handler(scope(path), receive, send)
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


async def ask(handler: Handler, gone: asyncio.Event, query: bytes = b"") -> None:
    """A client that goes away."""
    asked = False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if asked:
            await gone.wait()
            return {"type": "http.disconnect"}
        asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        pass

    await handler(scope("/streams", query), receive, send)


async def test_a_stream_is_closed_when_its_client_goes_away() -> None:
    gone = asyncio.Event()
    asking = asyncio.create_task(ask(Handler(), gone))
    await arrive(1)
    await asyncio.wait_for(bodies[-1].begun.wait(), 5)
    assert not bodies[-1].closed.is_set()
    gone.set()
    assert await asyncio.to_thread(bodies[-1].closed.wait, 2)
    await asking


async def test_a_stream_that_breaks_is_closed() -> None:
    with pytest.raises(ValueError, match="broken"):
        await ask(Handler(), asyncio.Event(), b"broken")
    assert bodies[-1].closed.is_set()
    await arrive(1)


async def test_a_stream_holds_no_thread() -> None:
    gone, handler = asyncio.Event(), Handler(at_once=2)
    before = threading.active_count()
    asking = [asyncio.create_task(ask(handler, gone)) for _ in range(20)]
    await arrive(20)
    for body in bodies[-20:]:
        await asyncio.wait_for(body.begun.wait(), 5)
    assert threading.active_count() < before + 20
    gone.set()
    await asyncio.gather(*asking)


async def test_a_stream_is_closed_whose_client_went_away_before_it_began() -> None:
    gone = asyncio.Event()
    asking = asyncio.create_task(ask(Handler(), gone, b"slowly"))
    await arrive(1)
    gone.set()
    await asyncio.sleep(0.05)  # so that the handler has heard of it while its thread still works
    go_on.set()
    assert await asyncio.to_thread(bodies[-1].closed.wait, 2)
    assert not bodies[-1].begun.is_set()
    await asking


async def test_a_request_whose_client_went_away_keeps_its_place_while_its_thread_works() -> None:
    gone, handler = asyncio.Event(), Handler(at_once=1)
    asking = asyncio.create_task(ask(handler, gone, b"slowly"))
    await arrive(1)
    gone.set()
    waiting = asyncio.create_task(get(handler, "/slow"))
    assert not await asyncio.to_thread(here.acquire, timeout=0.2)
    go_on.set()
    assert (await waiting)[0] == 200
    await arrive(1)
    await asking
