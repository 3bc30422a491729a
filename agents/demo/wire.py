"""The bytes of the OpenAI wire format, built with as little work per delta as possible."""

import json
from functools import lru_cache

from agents.demo.moves import Refuse, ToolCall

JsonObject = dict[str, object]
DONE = b"data: [DONE]\n\n"
CACHED_LENGTH = 1024


def _quoted(text: str) -> bytes:
    """UTF-8 where possible, escapes where the text has lone surrogates."""
    try:
        return json.dumps(text, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(text).encode()


_cached_quoted = lru_cache(maxsize=20_000)(_quoted)


def quoted(text: str) -> bytes:
    """A JSON string."""
    return _cached_quoted(text) if len(text) <= CACHED_LENGTH else _quoted(text)


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


class Frames:
    """The SSE frames of one answer."""

    def __init__(self, id: str, created: int, model: str) -> None:
        head = {"id": id, "object": "chat.completion.chunk", "created": created, "model": model}
        self._head = b"data: " + compact(head)[:-1]
        self._before = self._head + b',"choices":[{"index":0,"delta":{'
        self._after = b'},"finish_reason":null}]}\n\n'

    def role(self) -> bytes:
        return self._delta(b'"role":"assistant","content":""')

    def text(self, text: str) -> bytes:
        return self._delta(b'"content":' + quoted(text))

    def reasoning(self, text: str) -> bytes:
        return self._delta(b'"reasoning_content":' + quoted(text))

    def tool_calls(self, calls: tuple[ToolCall, ...]) -> list[bytes]:
        """Each call's head, then its arguments in fragments."""
        frames = []
        for index, call in enumerate(calls):
            head = {"index": index, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
            frames.append(self._delta(b'"tool_calls":' + compact([head])))
            for fragment in _fragments(call.arguments):
                part = {"index": index, "function": {"arguments": fragment}}
                frames.append(self._delta(b'"tool_calls":' + compact([part])))
        return frames

    def finish(self, reason: str) -> bytes:
        return self._head + b',"choices":[{"index":0,"delta":{},"finish_reason":' + quoted(reason) + b"}]}\n\n"

    def usage(self, usage: JsonObject) -> bytes:
        return self._head + b',"choices":[],"usage":' + compact(usage) + b"}\n\n"

    def _delta(self, fields: bytes) -> bytes:
        return self._before + fields + self._after


def _fragments(arguments: str) -> list[str]:
    size = max(12, len(arguments) // 64)
    return [arguments[start : start + size] for start in range(0, len(arguments), size)]


def usage(body_size: int, deltas: int) -> JsonObject:
    """Not a tokeniser's count, but a stable one: four bytes of request are a token, and so is each delta."""
    prompt = body_size // 4
    return {
        "prompt_tokens": prompt,
        "completion_tokens": deltas,
        "total_tokens": prompt + deltas,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def completion(
    id: str, created: int, model: str, message: JsonObject, reason: str, usage: JsonObject | None
) -> JsonObject:
    choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
    answer: JsonObject = {"id": id, "object": "chat.completion", "created": created, "model": model}
    return answer | {"choices": [choice]} | ({"usage": usage} if usage else {})


def assistant_message(text: str, reasoning: str, calls: tuple[ToolCall, ...]) -> JsonObject:
    message: JsonObject = {"role": "assistant", "content": text or (None if calls else "")}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ]
    return message


def error(refusal: Refuse, authorization: str = "") -> bytes:
    """Echoes the credentials, as real providers and proxies have done: whoever shows this text leaks them."""
    echo = f" (Authorization: {authorization})" if authorization else ""
    fields = {"message": refusal.message + echo, "type": refusal.kind, "param": None, "code": refusal.code}
    return compact({"error": fields})
