"""The beginning and the end of a web process, and the signal that announces the end."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

from config.bodies import App, Receive, Scope, Send

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Lifespan:
    """Calls `announce`, which must not block, and runs `farewell` as soon as the process is told to end: the server
    goes on serving what is open for a while then. It does not exit before `farewell` is done."""

    def __init__(self, app: App, announce: Callable[[], None], farewell: Callable[[], Coroutine[Any, Any, None]]):
        self._app = app
        self._announce = announce
        self._farewell = farewell
        self._parting: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        await receive()
        self._listen(asyncio.get_running_loop())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._part()
        assert self._parting is not None
        await asyncio.wait({self._parting})
        await send({"type": "lifespan.shutdown.complete"})

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        for number in SIGNALS:
            servers = signal.getsignal(number)
            if callable(servers):
                signal.signal(number, self._before(servers, loop))

    def _before(self, servers: Callable[..., Any], loop: asyncio.AbstractEventLoop) -> Callable[..., None]:
        def handle(number: int, frame: FrameType | None) -> None:
            self._announce()
            loop.call_soon_threadsafe(self._part)
            servers(number, frame)

        return handle

    def _part(self) -> None:
        self._announce()
        self._parting = self._parting or asyncio.ensure_future(self._farewell())
