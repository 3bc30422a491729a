"""Our own client for the wire format of OpenAI's chat completions, streamed: aiohttp for the bytes, msgspec for what we
need of them. A chunk costs it microseconds where litellm takes a millisecond.

The format: https://platform.openai.com/docs/api-reference/chat-streaming; the framing:
https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import msgspec

from agents.clients.prices import cost_usd
from agents.llm import (
    CONNECT_SECONDS,
    CallPiece,
    Delta,
    Finished,
    ModelError,
    ModelRequest,
    ModelSettings,
    Said,
    TextCleaner,
    Usage,
    provider_error,
    retry_after,
)

# Of an answer that is an error, and of one event of a stream, no more is read.
LONGEST_ERROR = 64 * 1024
LONGEST_EVENT = 16 * 1024 * 1024


class _Provider(NamedTuple):
    """What a model's name begins with, and where its address and key are found: the variables have litellm's names."""

    prefix: str
    address_variable: str
    address: str
    key_variable: str


OPENAI_ITSELF = "https://api.openai.com/v1"

_PROVIDERS = (
    _Provider("openai/", "OPENAI_BASE_URL", OPENAI_ITSELF, "OPENAI_API_KEY"),
    _Provider("hosted_vllm/", "HOSTED_VLLM_API_BASE", "http://localhost:8000/v1", "HOSTED_VLLM_API_KEY"),
    _Provider("ollama_chat/", "OLLAMA_API_BASE", "http://localhost:11434/v1", "OLLAMA_API_KEY"),
)

_STATUS = {
    401: "authentication",
    403: "permission",
    404: "not_found",
    408: "timeout",
    413: "context_overflow",
    429: "rate_limit",
    500: "provider_error",
    502: "overloaded",
    503: "overloaded",
    504: "timeout",
    529: "overloaded",
}

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


class _Delta(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    # Under two names: DeepSeek and vLLM, OpenRouter and Ollama.
    reasoning_content: str | None = None
    reasoning: str | None = None
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
_encode = msgspec.json.Encoder().encode


class ChatCompletions:
    """All calls of one process, over one pool of connections of one event loop, the one of its first call."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def stream(self, request: ModelRequest, /) -> AsyncGenerator[Delta, None]:
        """See `ModelClient`."""
        url, key, model = endpoint(request.model, request.api_base)
        body: dict[str, Any] = {
            "model": model,
            "messages": request.messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        body |= wire_settings(request.settings, url)
        if request.tools:
            body["tools"] = request.tools
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        # The real bound is the caller's: a provider that sends comments for ever never trips `sock_read`.
        patience = aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS, sock_read=request.stall)
        response = None
        try:
            response = await self._connections().post(
                url, data=_encode(body), headers=headers, timeout=patience, allow_redirects=False
            )
            if response.status != 200:
                raise await _refusal(response)
            answer = _Answer(request.model)
            async for data in response.content.iter_any():
                for delta in answer.feed(data):
                    yield delta
                if answer.is_whole:
                    break
                # What has arrived already is parsed without a pause: a burst would hold up all other runs.
                await asyncio.sleep(0)
            for delta in answer.end():
                yield delta
        except (TimeoutError, aiohttp.ServerTimeoutError) as error:
            raise provider_error("timeout") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # ValueError: a key or an address that no request can hold.
            raise provider_error("connection") from error
        finally:
            # At once and whatever happened; one that was read to its end is back in the pool by now.
            if response is not None:
                response.close()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _connections(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # Each run waits for one answer at most: there are never more connections than runs.
                connector=aiohttp.TCPConnector(limit=0),
                # Nobody's cookies reach the next call.
                cookie_jar=aiohttp.DummyCookieJar(),
                # The proxy that HTTPS_PROXY names.
                trust_env=True,
            )
        return self._session


def endpoint(model: str, api_base: str | None) -> tuple[str, str | None, str]:
    """(address, key or None, the model's name there)."""
    # Somebody's own address knows a model by its whole name.
    stranger = _Provider("", "", "", f"{model.partition('/')[0].upper()}_API_KEY")
    provider = next((known for known in _PROVIDERS if model.startswith(known.prefix)), stranger)
    base = (api_base or os.environ.get(provider.address_variable) or provider.address).rstrip("/")
    if provider.prefix == "ollama_chat/" and not urlsplit(base).path:
        base += "/v1"  # what people know is the address of Ollama's own API, at the root
    key = os.environ.get(provider.key_variable) or (os.environ.get("OPENAI_API_KEY") if api_base else None)
    return f"{base}/chat/completions", key, model.removeprefix(provider.prefix)


def wire_settings(settings: ModelSettings, url: str) -> dict[str, Any]:
    given = settings.given
    if url.startswith(OPENAI_ITSELF) and "max_tokens" in given:
        # The old name is refused there for models that reason; everywhere else it is the one that is known.
        given["max_completion_tokens"] = given.pop("max_tokens")
    return given


class _Answer:
    """Reads one stream, whatever pieces it comes in."""

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
        yield Finished(self._reason, self._priced(), TextCleaner().clean(self._answered_by))

    def _deltas(self, event: bytes) -> Iterator[Delta]:
        chunk = _chunk(event)
        if chunk.error:
            raise provider_error(_code_of(chunk.error, "provider_error"))
        self._usage = chunk.usage or self._usage
        self._answered_by = chunk.model or self._answered_by
        for choice in (chunk.choices or ())[:1]:
            self._reason = choice.finish_reason or self._reason
            if choice.delta is not None:
                yield from self._pieces(choice.delta)

    def _pieces(self, delta: _Delta) -> Iterator[Delta]:
        if (thinking := delta.reasoning_content or delta.reasoning) and (thinking := self._thinking.clean(thinking)):
            yield Said("reasoning", thinking)
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


async def _refusal(response: aiohttp.ClientResponse) -> ModelError:
    said = await response.content.read(LONGEST_ERROR)
    code = _STATUS.get(response.status) or ("provider_error" if response.status >= 500 else "bad_request")
    return provider_error(_code_of(said.decode(errors="replace"), code), retry_after(response.headers))


def _code_of(error: object, code: str) -> str:
    """What a refusal is about, where its words tell more than its number."""
    if code not in ("bad_request", "provider_error"):
        return code
    words = str(error).lower()
    if any(sign in words for sign in _OVERFLOW):
        return "context_overflow"
    if any(sign in words for sign in _FILTERED):
        return "content_filter"
    return code
