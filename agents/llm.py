"""The model client: a request in, deltas out, and every provider error as one of ours.

Only `stream` knows litellm, and imports it inside: that costs seconds and 190 MB, which a web process never pays. A
second client for another wire format needs nothing but another `stream` of the same type.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

# Without it the import fetches a price list over the network, twice, and leaves a retry thread behind (litellm#22159).
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
os.environ.setdefault("LITELLM_MODE", "PRODUCTION")

ProviderMessage = dict[str, Any]

CONNECT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One model call. `messages` and `tools` are in the OpenAI chat-completions shape; `stall` is in seconds."""

    model: str
    messages: Sequence[ProviderMessage]
    tools: Sequence[dict[str, Any]] = ()
    api_base: str | None = None
    stall: float = 120.0


@dataclass(frozen=True, slots=True)
class Usage:
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Said:
    """A piece of text (`kind` text) or of thinking (`kind` reasoning)."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A piece of a tool call; pieces of one call share `index`. `name` comes whole, with the first one."""

    index: int
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The provider's own end: always the last delta, and never made up."""

    reason: str
    usage: Usage
    model: str


Delta = Said | CallPiece | Finished


class ModelClient(Protocol):
    def __call__(self, request: ModelRequest, /) -> AsyncGenerator[Delta, None]:
        """Yields deltas, `Finished` last. Raises ModelError. Closing it, or a cancel, closes the provider's socket."""
        ...


class ModelError(Exception):
    """A model call that failed. `code` is for programs, the text for people, and neither holds what the provider said:
    providers echo keys and headers. `transient` says whether the same call may succeed later."""

    def __init__(self, code: str, text: str, *, transient: bool = False, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.transient = transient
        self.retry_after = retry_after


# By name and in this order: litellm's exceptions inherit from openai's, and importing either here costs seconds.
_ERRORS: Mapping[str, tuple[str, str, bool]] = {
    "ContextWindowExceededError": ("context_overflow", "The conversation is too long for this model.", False),
    "ContentPolicyViolationError": ("content_filter", "The model's provider refused this content.", False),
    "AuthenticationError": ("authentication", "The model's provider refused our credentials.", False),
    "PermissionDeniedError": ("permission", "The model's provider does not allow us to use this model.", False),
    "NotFoundError": ("not_found", "The model's provider does not know this model.", False),
    "RateLimitError": ("rate_limit", "The model's provider is limiting our rate.", True),
    "Timeout": ("timeout", "The model's provider did not answer in time.", True),
    "UnprocessableEntityError": ("bad_request", "The model's provider refused the request.", False),
    "BadRequestError": ("bad_request", "The model's provider refused the request.", False),
    "ServiceUnavailableError": ("overloaded", "The model's provider is overloaded.", True),
    "BadGatewayError": ("overloaded", "The model's provider is overloaded.", True),
    "InternalServerError": ("provider_error", "The model's provider had an internal error.", True),
    "APIConnectionError": ("connection", "The connection to the model's provider failed.", True),
    "APIError": ("provider_error", "The model's provider answered with an error.", True),
}


def model_error(error: Exception) -> ModelError:
    """The one translation of what litellm and the HTTP stack below it raise."""
    for kind in type(error).__mro__:
        known = _ERRORS.get(kind.__name__)
        if known is not None:
            code, text, transient = known
            return ModelError(code, text, transient=transient, retry_after=_retry_after(error))
    return ModelError("provider_error", "The call to the model's provider failed.", transient=True)


def _retry_after(error: Exception) -> float | None:
    headers = getattr(error, "litellm_response_headers", None) or getattr(error, "headers", None)
    try:
        seconds = float((headers or {}).get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < 3600 else None


@dataclass(slots=True)
class TextCleaner:
    """Makes text storable: NUL and lone surrogates become U+FFFD. A pair split between two deltas is put together."""

    _high: str = field(default="")

    def clean(self, text: str) -> str:
        if text.isascii() and not self._high:
            return text.replace("\0", "\ufffd")
        text = self._high + text
        self._high = ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._high = text[:-1], text[-1]
        # A pair of surrogates is one character once it went through UTF-16.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd")

    def rest(self) -> str:
        rest, self._high = "\ufffd" if self._high else "", ""
        return rest


def load() -> None:
    """Imports litellm and makes it quiet. Called once by a worker, before it takes its first run."""
    import litellm

    litellm.suppress_debug_info = True
    litellm.callbacks = litellm.success_callback = litellm.failure_callback = []
    litellm.telemetry = False
    litellm.drop_params = True
    # Some providers refuse a history with tool calls in a request that offers no tools; with this litellm mends it.
    litellm.modify_params = True
    asyncio.run(_first_call())


async def _first_call() -> None:
    """A call that cannot succeed: litellm imports all that a call takes now, for 3 to 5 s, and not in the first run,
    where it would block the loop of all the others. Tools take imports of their own."""
    lacks_key = "OPENAI_API_KEY" not in os.environ
    os.environ.setdefault("OPENAI_API_KEY", "none")
    tool = {"type": "function", "function": {"name": "none", "parameters": {"type": "object", "properties": {}}}}
    nowhere = ModelRequest("openai/none", [{"role": "user", "content": "-"}], [tool], "http://127.0.0.1:9/v1")
    with suppress(ModelError):
        async for _ in stream(nowhere):
            pass
    if lacks_key:
        del os.environ["OPENAI_API_KEY"]  # so that its absence is not taken for a wrong one


async def stream(request: ModelRequest, /) -> AsyncGenerator[Delta, None]:
    """See `ModelClient`; over litellm, for every provider it knows."""
    import httpx
    import litellm

    try:
        response = await litellm.acompletion(
            model=request.model,
            messages=list(request.messages),
            tools=list(request.tools) or None,
            stream=True,
            stream_options={"include_usage": True},
            api_base=request.api_base,
            # One retry loop for all: ours, which knows whether anything was shown.
            max_retries=0,
            # The real bound is the caller's: a provider that sends comments for ever never trips this one.
            timeout=httpx.Timeout(request.stall, connect=CONNECT_SECONDS),
        )
        # Both: closing the one does not close the other, nor the socket below.
        async with aclosing(response), aclosing(_deltas(response, request.model)) as deltas:
            async for delta in deltas:
                yield delta
    except ModelError:
        raise
    except Exception as error:
        raise model_error(error) from error


async def _deltas(response: Any, model: str) -> AsyncGenerator[Delta, None]:
    cleaner = TextCleaner()
    usage = None
    answered_by = model
    async for chunk in response:
        usage = getattr(chunk, "usage", None) or usage
        answered_by = chunk.model or answered_by
        for choice in chunk.choices[:1]:
            for delta in _pieces(choice.delta, cleaner):
                yield delta
        # What has arrived already is parsed without a pause: for seconds, a burst would hold up all other runs.
        await asyncio.sleep(0)
    if rest := cleaner.rest():
        yield Said("text", rest)
    # litellm ends a stream that was merely cut off like a whole one, with a made-up reason (litellm#40260); what the
    # provider really said stands here.
    reason = response.received_finish_reason
    if reason is None:
        raise ModelError("stream_truncated", "The model's answer broke off before its end.", transient=True)
    if reason == "content_filter":
        raise ModelError("content_filter", "The model's provider withheld the rest of the answer.")
    # Where the provider counted nothing, litellm did; its own guess is in none of the chunks that came.
    estimated = not any(getattr(chunk, "usage", None) for chunk in response.chunks)
    yield Finished(str(reason), _usage(usage, model, estimated), TextCleaner().clean(str(answered_by)))


def _pieces(delta: Any, cleaner: TextCleaner) -> list[Delta]:
    pieces: list[Delta] = []
    if thinking := getattr(delta, "reasoning_content", None):
        pieces.append(Said("reasoning", TextCleaner().clean(thinking)))
    if delta.content and (text := cleaner.clean(delta.content)):
        pieces.append(Said("text", text))
    for call in delta.tool_calls or ():
        function = call.function
        arguments = TextCleaner().clean(function.arguments or "")
        pieces.append(CallPiece(call.index or 0, TextCleaner().clean(function.name or ""), arguments))
    return pieces


def _usage(usage: Any, model: str, estimated: bool) -> Usage:
    """Priced from litellm's local list, nothing where that does not know the model."""
    if usage is None:
        return Usage(estimated=True)
    details = getattr(usage, "prompt_tokens_details", None)
    return Usage(
        input_tokens=usage.prompt_tokens or 0,
        output_tokens=usage.completion_tokens or 0,
        cached_tokens=getattr(details, "cached_tokens", None) or 0,
        cost_usd=_cost(usage, model),
        estimated=estimated,
    )


def _cost(usage: Any, model: str) -> Decimal:
    import litellm

    try:
        prompt, completion = litellm.cost_per_token(model=model, usage_object=usage)
    except Exception:  # a model without a price raises whatever it likes
        return Decimal(0)
    return Decimal(str(prompt + completion)).quantize(Decimal("0.00000001"))
