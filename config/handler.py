"""How a web process answers: each request in one thread, so many at once, and no database connection held while the
answer is on its way."""

import asyncio
from contextlib import suppress

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.db import connection
from django.http import HttpRequest, HttpResponseBase, JsonResponse
from servestatic.middleware import ServeStaticMiddleware
from servestatic.responders import MissingFileError

from chat.api.errors import plain_error
from runs.database import in_thread

# Fewer than the pool has connections (10): a burst waits here, where it holds nothing.
AT_ONCE = 8
# With the 3 s for a connection, below what people take for dead.
PATIENCE_SECONDS = 4.0
PROBES = ("/healthz", "/readyz")


class Handler(ASGIHandler):
    """Django's own goes from the loop to a thread and back for every middleware that is sync, and ours are: a third of
    the time of a POST. The views are sync, too; what they stream is not."""

    def __init__(self, at_once: int = AT_ONCE, patience: float = PATIENCE_SECONDS) -> None:
        self.load_middleware(is_async=False)
        self._static = ServeStaticMiddleware(self._in_thread)
        self._slots = asyncio.Semaphore(at_once)
        self._patience = patience
        self._closings: set[asyncio.Future[None]] = set()

    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        if request.path_info.startswith(settings.STATIC_URL):
            return await self._file(request)
        if request.path_info in PROBES:
            return await self._in_thread(request)  # alive is alive, however busy
        try:
            async with asyncio.timeout(self._patience):
                await self._slots.acquire()
        except TimeoutError:
            return JsonResponse(plain_error(503), status=503, headers={"Retry-After": "1"})
        return await self._answer(request)

    async def _answer(self, request: HttpRequest) -> HttpResponseBase:
        """The thread of a request whose client is gone goes on, and keeps its slot: what it answers is closed, as if
        somebody had begun to read it. Django drops it without a word."""
        answering = asyncio.ensure_future(self._in_thread(request))
        answering.add_done_callback(lambda _: self._slots.release())
        try:
            return await asyncio.shield(answering)
        except asyncio.CancelledError:
            answering.add_done_callback(self._close)
            raise

    def _close(self, answered: asyncio.Future[HttpResponseBase]) -> None:
        if answered.cancelled() or answered.exception():
            return
        closing = asyncio.ensure_future(in_thread(answered.result().close))
        self._closings.add(closing)  # the loop itself holds tasks weakly
        closing.add_done_callback(self._closings.discard)

    async def _file(self, request: HttpRequest) -> HttpResponseBase:
        with suppress(MissingFileError):
            response: HttpResponseBase = await self._static(request)
            return response
        return await self._in_thread(request)  # which says that there is none

    async def _in_thread(self, request: HttpRequest) -> HttpResponseBase:
        return await sync_to_async(self._respond, thread_sensitive=True)(request)

    def _respond(self, request: HttpRequest) -> HttpResponseBase:
        try:
            return self.get_response(request)
        finally:
            # A slow reader, or a stream that lasts for hours, needs no connection any more.
            connection.close()
