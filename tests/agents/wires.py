"""Providers with a wire format of their own, scripted: what they were asked, and answers byte by byte."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Json = dict[str, Any]


@dataclass
class Answer:
    """`cut` breaks the connection off behind the body, `hang` leaves it open for ever."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    hang: bool = False


@dataclass
class Wire:
    """Answers in turn whatever comes; `asked` is what came."""

    address: str
    answers: list[Answer] = field(default_factory=list)
    asked: list[Json] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    def will(self, *answers: Answer | bytes) -> None:
        self.answers += [answer if isinstance(answer, Answer) else Answer(answer) for answer in answers]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(json.loads(await request.read()))
        answer = self.answers.pop(0)
        kind = "text/event-stream" if answer.status == 200 else "application/json"
        response = web.StreamResponse(status=answer.status, headers={"Content-Type": kind, **answer.headers})
        await response.prepare(request)
        await response.write(answer.body)
        try:
            if answer.hang:
                await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.left.set()
            raise
        if answer.cut and request.transport:
            request.transport.close()
        return response


@asynccontextmanager
async def listening() -> AsyncIterator[Wire]:
    app = web.Application()
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    wire = Wire("")
    app.router.add_post("/{path:.*}", wire.handle)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    wire.address = f"http://{host}:{port}"
    try:
        yield wire
    finally:
        await runner.cleanup()


# Anthropic's Messages: https://platform.claude.com/docs/en/build-with-claude/streaming


def anthropic(*blocks: Iterable[Json], stop: str | None = "end_turn") -> bytes:
    """A whole answer; without `stop`, one that ends behind its last block."""
    usage = {"input_tokens": 20, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 0, "output_tokens": 1}
    message = {"id": "m", "type": "message", "role": "assistant", "content": [], "model": "claude-x", "usage": usage}
    events: list[Json] = [{"type": "message_start", "message": {**message, "stop_reason": None, "stop_sequence": None}}]
    for index, block in enumerate(blocks):
        first, *deltas = block
        events.append({"type": "content_block_start", "index": index, "content_block": first})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    if stop:
        ended = {"stop_reason": stop, "stop_sequence": None}
        events.append({"type": "message_delta", "delta": ended, "usage": {"output_tokens": 7}})
        events.append({"type": "message_stop"})
    return b"".join(map(anthropic_event, events))


def anthropic_event(event: Json) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def text_block(*pieces: str) -> Iterable[Json]:
    yield {"type": "text", "text": ""}
    yield from ({"type": "text_delta", "text": piece} for piece in pieces)


def thinking_block(signature: str, *pieces: str) -> Iterable[Json]:
    yield {"type": "thinking", "thinking": "", "signature": ""}
    yield from ({"type": "thinking_delta", "thinking": piece} for piece in pieces)
    yield {"type": "signature_delta", "signature": signature}


def redacted_block(data: str) -> Iterable[Json]:
    yield {"type": "redacted_thinking", "data": data}


def call_block(name: str, *pieces: str) -> Iterable[Json]:
    yield {"type": "tool_use", "id": f"toolu_{name}", "name": name, "input": {}}
    yield from ({"type": "input_json_delta", "partial_json": piece} for piece in pieces)


def anthropic_error(kind: str, message: str = "no: sk-canary") -> bytes:
    return json.dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()


# Gemini's streamGenerateContent: https://ai.google.dev/api/generate-content


def gemini(*parts: Json, reason: str | None = "STOP") -> bytes:
    """A chunk for each part; without `reason`, an answer that was cut off."""
    usage = {"promptTokenCount": 20, "candidatesTokenCount": 7, "totalTokenCount": 27, "cachedContentTokenCount": 5}
    chunks: list[Json] = [
        {"candidates": [{"index": 0, "content": {"role": "model", "parts": [part]}}]} for part in parts
    ]
    if reason:
        chunks.append({"candidates": [{"index": 0, "finishReason": reason}]})
    told = {"usageMetadata": usage, "modelVersion": "gemini-x"}
    return b"".join(f"data: {json.dumps({**chunk, **told})}\r\n\r\n".encode() for chunk in chunks)


def gemini_error(code: int, status: str, message: str = "no: sk-canary") -> bytes:
    return json.dumps({"error": {"code": code, "status": status, "message": message}}).encode()


# OpenAI's chat completions, and what others add to them


def completion(*deltas: Json, reason: str | None = "stop") -> bytes:
    chunks: list[Json] = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    if reason:
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    told = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "x"}
    return b"".join(f"data: {json.dumps({**told, **chunk})}\n\n".encode() for chunk in chunks) + b"data: [DONE]\n\n"
