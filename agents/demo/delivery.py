"""How an answer travels: the pace of its moves, and what each does to the connection."""

import asyncio
import math
import socket
import struct
from collections.abc import Iterator

from aiohttp import web

from agents.demo import wire
from agents.demo.calls import Call
from agents.demo.moves import (
    Broken,
    CallTools,
    Cut,
    Finish,
    Headers,
    Move,
    Raw,
    Refuse,
    Reset,
    Say,
    Spoil,
    Think,
    ToolCall,
    Wait,
)
from agents.demo.wire import JsonObject

# How many deltas are written in a row at full speed before other connections get their turn.
BURST = 64


def refusal(move: Refuse, authorization: str = "") -> web.Response:
    headers = {"Retry-After": move.retry_after} if move.retry_after else {}
    body = wire.error(move, authorization)
    return web.Response(status=move.status, body=body, headers=headers, content_type="application/json")


class Pace:
    """Chunk k is due at start + k / rate, however late the ones before it were."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._loop = asyncio.get_running_loop()
        self._start = 0.0
        self.count = 0

    async def next(self) -> None:
        if not self._rate:
            if self.count % BURST == BURST - 1:
                await asyncio.sleep(0)
        elif not self.count:
            self._start = self._loop.time()
        elif (pause := self._start + self.count / self._rate - self._loop.time()) > 0:
            await asyncio.sleep(pause)
        self.count += 1


class Delivery:
    """One call's way through its moves, as a stream or as a whole."""

    def __init__(self, request: web.Request, call: Call, rate: float) -> None:
        self._request = request
        self._call = call
        self._pace = Pace(rate)
        self._id = f"chatcmpl-{call.number}"
        self._created = int(call.opened_at)

    async def stream(self, moves: Iterator[Move], *, with_usage: bool) -> web.StreamResponse:
        frames = wire.Frames(self._id, self._created, self._call.model)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        for move in moves:
            match move:
                case Say(text):
                    await self._pace.next()
                    self._said(text)
                    await response.write(frames.text(text))
                case Think(text):
                    await self._pace.next()
                    self._thought(text)
                    await response.write(frames.reasoning(text))
                case Wait(seconds):
                    await _wait(seconds)
                case Headers(role):
                    await response.prepare(self._request)
                    if role:
                        await response.write(frames.role())
                case CallTools(calls):
                    await self._call_tools(response, frames, calls)
                case Raw(data) | Spoil(data):
                    await response.write(data)
                case Finish(reason, usage):
                    last = frames.usage(self._usage()) if usage and with_usage else b""
                    await response.write(frames.finish(reason) + last + wire.DONE)
                    self._call.close("finished")
                case Refuse():
                    return self._refuse(move)
                case Broken():
                    self._call.close("failed")
                case Reset() | Cut():
                    self._break_off(move)
        return response

    async def whole(self, moves: Iterator[Move]) -> web.StreamResponse:
        """Takes as long as the stream would; a fault that only a stream can show resets the connection."""
        calls: tuple[ToolCall, ...] = ()
        text: list[str] = []
        reasoning: list[str] = []
        for move in moves:
            match move:
                case Say(delta):
                    await self._pace.next()
                    text.append(delta)
                case Think(delta):
                    await self._pace.next()
                    reasoning.append(delta)
                case CallTools(calls):
                    pass
                case Wait(seconds):
                    await _wait(seconds)
                case Finish(reason, usage):
                    message = wire.assistant_message("".join(text), "".join(reasoning), calls)
                    return self._complete(message, text, reasoning, reason, with_usage=usage)
                case Refuse():
                    return self._refuse(move)
                case Spoil() | Broken() | Reset() | Cut():
                    break
        self._break_off(Reset())
        return web.Response()

    def _complete(
        self, message: JsonObject, text: list[str], reasoning: list[str], reason: str, *, with_usage: bool
    ) -> web.Response:
        usage = self._usage() if with_usage else None
        for delta in text:
            self._said(delta)
        for delta in reasoning:
            self._thought(delta)
        self._call.close("finished")
        return web.json_response(wire.completion(self._id, self._created, self._call.model, message, reason, usage))

    # Recorded before the write: what a client received is always a prefix of what the record says.

    def _said(self, text: str) -> None:
        self._call.text.append(text)
        self._call.sent()

    def _thought(self, text: str) -> None:
        self._call.reasoning.append(text)
        self._call.sent()

    async def _call_tools(self, response: web.StreamResponse, frames: wire.Frames, calls: tuple[ToolCall, ...]) -> None:
        for frame in frames.tool_calls(calls):
            await self._pace.next()
            self._call.sent()
            await response.write(frame)

    def _usage(self) -> JsonObject:
        return wire.usage(len(self._call.body), self._pace.count)

    def _refuse(self, move: Refuse) -> web.Response:
        self._call.close("failed", str(move.status))
        return refusal(move, self._request.headers.get("Authorization", ""))

    def _break_off(self, how: Reset | Cut) -> None:
        self._call.close("failed")
        transport = self._request.transport
        if transport is None:
            return
        if isinstance(how, Cut):
            transport.close()  # what was written goes out, the chunk that ends the body does not
            return
        # Closing with an empty linger sends RST instead of FIN.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()


async def _wait(seconds: float) -> None:
    if math.isinf(seconds):
        await asyncio.get_running_loop().create_future()
    else:
        await asyncio.sleep(seconds)
