"""Our own client for the wire format of OpenAI's chat completions, streamed: aiohttp for the bytes, msgspec for what we
need of them. A chunk costs it microseconds where litellm takes a millisecond."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import msgspec

from agents.clients.completion_stream import CompletionStream, code_of
from agents.llm import (
    CONNECT_SECONDS,
    Delta,
    ModelError,
    ModelRequest,
    ModelSettings,
    provider_error,
    retry_after,
)

# Of an answer that is an error no more is read.
LONGEST_ERROR = 64 * 1024


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
            answer = CompletionStream(request.model)
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


async def _refusal(response: aiohttp.ClientResponse) -> ModelError:
    said = await response.content.read(LONGEST_ERROR)
    code = _STATUS.get(response.status) or ("provider_error" if response.status >= 500 else "bad_request")
    return provider_error(code_of(said.decode(errors="replace"), code), retry_after(response.headers))
