"""How a web process answers: each request in one thread, so many at once, and no database connection held while the
answer is on its way."""

import asyncio
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress

from django.conf import settings
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, ASGIRequest, get_script_prefix
from django.core.signals import request_started
from django.db import connection
from django.http import HttpResponseBase, JsonResponse
from django.urls import set_script_prefix
from servestatic.middleware import ServeStaticMiddleware
from servestatic.responders import MissingFileError

from chat.api.errors import plain_error
from config.bodies import Receive, Scope, Send
from runs.database import in_thread

# Fewer than the pool has connections (10): a burst waits here, where it holds nothing.
AT_ONCE = 8
# With the 3 s for a connection, below what people take for dead.
PATIENCE_SECONDS = 4.0
PROBES = ("/healthz", "/readyz")


class Handler(ASGIHandler):
    """Django's own keeps a thread for each request until what it streams has ended, and goes there and back for each
    signal and each middleware that is sync. Here a request takes one of a few threads, once; what it streams takes
    none. Signals, connections and contexts are those of the thread, as under WSGI."""

    def __init__(self, at_once: int = AT_ONCE, patience: float = PATIENCE_SECONDS) -> None:
        self.load_middleware(is_async=False)
        self._static = ServeStaticMiddleware(self._beside)
        self._threads = ThreadPoolExecutor(at_once, "request")
        self._slots = asyncio.Semaphore(at_once)
        self._patience = patience
        self._closings: set[asyncio.Future[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await self.read_body(receive)
        except RequestAborted:
            return
        set_script_prefix(get_script_prefix(scope))  # for what is streamed
        request, refusal = self.create_request(scope, body)
        if request is None:
            assert refusal is not None
            body.close()
            await self.send_response(refusal, send)
            return
        serving = asyncio.ensure_future(self._serve(request, send))
        leaving = asyncio.ensure_future(_disconnect(receive))
        leaving.add_done_callback(lambda _: serving.cancel())
        try:
            await asyncio.wait({serving})
        finally:
            leaving.cancel()
            serving.cancel()
            await asyncio.wait({serving, leaving})
        if not serving.cancelled():
            serving.result()

    async def _serve(self, request: ASGIRequest, send: Send) -> None:
        response = await self._answer(request)
        try:
            await self.send_response(response, send)
        finally:
            if response.streaming:
                await asyncio.shield(in_thread(response.close))

    async def _answer(self, request: ASGIRequest) -> HttpResponseBase:
        if request.path_info.startswith(settings.STATIC_URL):
            return await self._file(request)
        if request.path_info in PROBES:
            return await self._beside(request)  # alive is alive, however busy
        try:
            async with asyncio.timeout(self._patience):
                await self._slots.acquire()
        except TimeoutError:
            return JsonResponse(plain_error(503), status=503, headers={"Retry-After": "1"})
        return await self._in_its_turn(request)

    async def _in_its_turn(self, request: ASGIRequest) -> HttpResponseBase:
        """The thread of a request whose client is gone goes on, and keeps its slot: what it answers is closed, as if
        somebody had begun to read it."""
        answering = self._in_thread(self._threads, request)
        answering.add_done_callback(lambda _: self._slots.release())
        try:
            return await asyncio.shield(answering)
        except asyncio.CancelledError:
            answering.add_done_callback(self._close)
            raise

    def _close(self, answered: asyncio.Future[HttpResponseBase]) -> None:
        if answered.cancelled() or answered.exception() or not answered.result().streaming:
            return
        closing = asyncio.ensure_future(in_thread(answered.result().close))
        self._closings.add(closing)  # the loop itself holds tasks weakly
        closing.add_done_callback(self._closings.discard)

    async def _file(self, request: ASGIRequest) -> HttpResponseBase:
        with suppress(MissingFileError):
            response: HttpResponseBase = await self._static(request)
            return response
        return await self._beside(request)  # which says that there is none

    async def _beside(self, request: ASGIRequest) -> HttpResponseBase:
        """In a thread that no other request waits for."""
        return await self._in_thread(None, request)

    def _in_thread(self, threads: Executor | None, request: ASGIRequest) -> asyncio.Future[HttpResponseBase]:
        return asyncio.get_running_loop().run_in_executor(threads, self._respond, request)

    def _respond(self, request: ASGIRequest) -> HttpResponseBase:
        set_script_prefix(get_script_prefix(request.scope))
        try:
            request_started.send(sender=type(self), scope=request.scope)
            response = self.get_response(request)
            response._handler_class = type(self)  # type: ignore[attr-defined]
            if not response.streaming:
                response.close()
            return response
        finally:
            # A slow reader, or a stream that lasts for hours, needs no connection any more.
            connection.close()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
