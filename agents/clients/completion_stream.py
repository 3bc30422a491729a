"""Reads one stream of chat completions, whatever pieces it comes in, into the deltas of `agents.llm`.

The format: https://platform.openai.com/docs/api-reference/chat-streaming; the framing:
https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from agents.clients.prices import cost_usd
from agents.clients.thoughts import Thoughts
from agents.llm import CallPiece, Delta, Finished, ModelError, Said, TextCleaner, Usage, provider_error

# Of one event no more is read.
LONGEST_EVENT = 16 * 1024 * 1024

# Providers share the format but not the words of their refusals.
_OVERFLOW = (
    "context_length_exceeded",
    "maximum context length",
    "context window",
    "exceeds the context",
    "prompt is too long",
)
_FILTERED = ("content_filter", "content_policy_violation", "content management policy")


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int | None = None
    function: _Function | None = None
    # Gemini, where it speaks this format, signs calls here.
    extra_content: Any = None


class _Delta(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    # Under two names: DeepSeek and vLLM, OpenRouter and Ollama.
    reasoning_content: str | None = None
    reasoning: str | None = None
    # OpenRouter: the same, signed.
    reasoning_details: Any = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    model: str | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode


class CompletionStream:
    """`feed` it what arrives until it `is_whole`, then ask for its `end`."""

    def __init__(self, model: str) -> None:
        self.is_whole = False
        self._model = self._answered_by = model
        self._rest = b""
        self._event: list[bytes] = []
        self._cleaner = TextCleaner()
        self._thinking = TextCleaner()
        self._calls = 0
        self._usage: _Usage | None = None
        self._reason: str | None = None
        # Reasoning goes back under the name it came with: Groq and Cerebras refuse the other one.
        self._thoughts = Thoughts()

    def feed(self, data: bytes) -> Iterator[Delta]:
        """Raises ModelError."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LONGEST_EVENT:
            raise provider_error("provider_error")
        for line in lines:
            line = line.rstrip(b"\r")
            if line.startswith(b"data:"):
                self._event.append(line[5:].lstrip(b" "))
            elif not line and self._event:
                event, self._event = b"\n".join(self._event), []
                if event == b"[DONE]":
                    self.is_whole = True
                    return
                yield from self._deltas(event)

    def end(self) -> Iterator[Delta]:
        """Raises ModelError where the end was not the provider's own."""
        if rest := self._thinking.rest():
            yield Said("reasoning", rest)
        if rest := self._cleaner.rest():
            yield Said("text", rest)
        if self._reason is None:
            raise provider_error("stream_truncated")
        if self._reason == "content_filter":
            raise ModelError("content_filter", "The model's provider withheld the rest of the answer.")
        yield Finished(self._reason, self._priced(), TextCleaner().clean(self._answered_by), self._thoughts.echo())

    def _deltas(self, event: bytes) -> Iterator[Delta]:
        chunk = _chunk(event)
        if chunk.error:
            raise provider_error(code_of(chunk.error, "provider_error"))
        self._usage = chunk.usage or self._usage
        self._answered_by = chunk.model or self._answered_by
        for choice in (chunk.choices or ())[:1]:
            self._reason = choice.finish_reason or self._reason
            if choice.delta is not None:
                yield from self._pieces(choice.delta)

    def _pieces(self, delta: _Delta) -> Iterator[Delta]:
        if thinking := delta.reasoning_content or delta.reasoning:
            name = "reasoning_content" if delta.reasoning_content else "reasoning"
            self._thoughts.say(name, thinking)
            if thinking := self._thinking.clean(thinking):
                yield Said("reasoning", thinking)
        if delta.reasoning_details:
            self._thoughts.add_blocks("reasoning_details", delta.reasoning_details)
        if (said := delta.content or delta.refusal) and (said := self._cleaner.clean(said)):
            yield Said("text", said)
        for call in delta.tool_calls or ():
            yield self._call_piece(call)

    def _call_piece(self, call: _ToolCall) -> CallPiece:
        function = call.function or _Function()
        name = TextCleaner().clean(function.name or "")
        # Without a number it is a call of its own where it has a name, and goes on with the last one where not.
        index = call.index if call.index is not None else max(0, self._calls if name else self._calls - 1)
        self._calls = max(self._calls, index + 1)
        self._thoughts.sign_call(index, **({"extra_content": call.extra_content} if call.extra_content else {}))
        return CallPiece(index, name, TextCleaner().clean(function.arguments or ""))

    def _priced(self) -> Usage:
        if self._usage is None:
            return Usage(estimated=True)
        details = self._usage.prompt_tokens_details
        counts = (
            self._usage.prompt_tokens or 0,
            self._usage.completion_tokens or 0,
            (details.cached_tokens if details else None) or 0,
        )
        return Usage(*counts, cost_usd(self._model, *counts))


def _chunk(event: bytes) -> _Chunk:
    """Raises ModelError."""
    try:
        return _decode(event)
    except msgspec.DecodeError:
        pass
    try:
        # Only the standard library takes lone surrogates, which some providers send half of a pair at a time.
        return msgspec.convert(json.loads(event), _Chunk)
    except (ValueError, RecursionError) as error:
        raise provider_error("provider_error") from error


def code_of(error: object, code: str) -> str:
    """What a refusal is about, where its words tell more than its number."""
    if code not in ("bad_request", "provider_error"):
        return code
    words = str(error).lower()
    if any(sign in words for sign in _OVERFLOW):
        return "context_overflow"
    if any(sign in words for sign in _FILTERED):
        return "content_filter"
    return code
