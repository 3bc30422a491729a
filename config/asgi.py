"""The web process: Django behind a limit on the size of bodies."""

import atexit
import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
os.environ["PERDURE_WEB"] = "1"

from config import services

atexit.register(services.stop, services.ensure())

from django.conf import settings  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class TooLarge(Exception):
    pass


class BodyLimit:
    """Answers 413 before Django spools a body that no route takes: JSON may write each byte of a text as six."""

    def __init__(self, app: App, most: int) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self._most:
            await _refuse(send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._most:
                raise TooLarge
            return message

        try:
            await self._app(scope, counted, send)
        except TooLarge:
            await _refuse(send)


async def _refuse(send: Send) -> None:
    body = json.dumps({"code": "TOO_LARGE", "detail": "The request is too large."}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    # What is left of the body is not read: the connection has no future.
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})


django: Any = get_asgi_application()
application = BodyLimit(django, 6 * settings.MESSAGE_MAX_BYTES + 64 * 1024)

from runs.witness import witness  # noqa: E402

# A web process may have to judge whether the worker of a chat's run is dead.
witness.watch(settings.RUN_HEARTBEAT_SECONDS)
