"""How large a body may be, before anything is done with it."""

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Scope = MutableMapping[str, Any]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class TooLarge(Exception):
    pass


class BodyLimit:
    """Answers 413 before Django spools a body that no route takes: JSON may write each byte of a text as six. Both
    limits are in bytes; `most_at` is by path, for the routes that take more."""

    def __init__(self, app: App, most: int, most_at: Mapping[str, int] | None = None) -> None:
        self._app = app
        self._most = most
        self._most_at = most_at or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        most = self._most_at.get(scope["path"], self._most)
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > most:
            await _refuse(send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > most:
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
