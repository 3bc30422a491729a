"""All providers that litellm knows. Importing it costs 10 s and 190 MB: only a worker does, and only at its start."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, suppress
from decimal import Decimal
from typing import Any

from agents.clients.thoughts import Thoughts
from agents.llm import (
    CONNECT_SECONDS,
    CallPiece,
    Delta,
    Finished,
    ModelError,
    ModelRequest,
    Said,
    TextCleaner,
    Usage,
    provider_error,
    retry_after,
)

# Without it the import fetches a price list over the network, twice, and leaves a retry thread behind (litellm#22159).
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
os.environ.setdefault("LITELLM_MODE", "PRODUCTION")

# By name and in this order: litellm's exceptions inherit from openai's, and importing either here costs seconds.
_CODES: Mapping[str, str] = {
    "ContextWindowExceededError": "context_overflow",
    "ContentPolicyViolationError": "content_filter",
    "AuthenticationError": "authentication",
    "PermissionDeniedError": "permission",
    "NotFoundError": "not_found",
    "RateLimitError": "rate_limit",
    "Timeout": "timeout",
    "UnprocessableEntityError": "bad_request",
    "BadRequestError": "bad_request",
    "ServiceUnavailableError": "overloaded",
    "BadGatewayError": "overloaded",
    "InternalServerError": "provider_error",
    "APIConnectionError": "connection",
    "APIError": "provider_error",
}


# Who reads `reasoning_content` again: DeepSeek, Moonshot and Z.AI want it back with a call, the others hand it to the
# model. litellm shows everybody's reasoning under this name, but Groq and Cerebras refuse a request that holds it.
_TAKE_PLAIN_REASONING = ("deepseek/", "moonshot/", "zai/", "minimax/", "openrouter/", "hosted_vllm/", "openai/")

# Providers of which litellm makes "stop" of every end that is none, so that an answer that was cut off looks whole.
_MAKES_UP_ENDS = ("anthropic", "gemini", "vertex_ai", "vertex_ai_beta")

# What litellm takes for one of its general errors, told by the provider's own words.
_WORDS = {"request_too_large": "context_overflow", "overloaded": "overloaded"}

# What Gemini calls a call that it failed to write; litellm calls it "stop", like an answer.
_MALFORMED_CALL = ("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL")


def model_error(error: Exception) -> ModelError:
    """The one translation of what litellm and the HTTP stack below it raise."""
    if type(error).__name__ == "MidStreamFallbackError":
        # Whatever breaks a stream is wrapped into it; and to some providers even the first answer is a stream.
        error = getattr(error, "original_exception", None) or error
    headers = getattr(error, "litellm_response_headers", None) or getattr(error, "headers", None)
    names = (kind.__name__ for kind in type(error).__mro__)
    code = next((_CODES[name] for name in names if name in _CODES), "provider_error")
    if code == "bad_request" and getattr(error, "status_code", None) == 403:
        code = "permission"
    if code in ("bad_request", "provider_error"):
        said = str(error).lower()
        code = next((meant for word, meant in _WORDS.items() if word in said), code)
    return provider_error(code, retry_after(headers))


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
            **request.settings.given,
            # One retry loop for all: ours, which knows whether anything was shown.
            max_retries=0,
            # The real bound is the caller's: a provider that sends comments for ever never trips this one.
            timeout=httpx.Timeout(request.stall, connect=CONNECT_SECONDS),
        )
        # Both: closing the one does not close the other, nor the socket below.
        async with aclosing(response), aclosing(_deltas(response, request.model, _watched(response))) as deltas:
            async for delta in deltas:
                yield delta
    except ModelError:
        raise
    except Exception as error:
        raise model_error(error) from error


def _watched(response: Any) -> list[str] | None:
    """Will hold the ends that the provider itself names, of the answer or of the conversation: litellm's parser is the
    last that sees the wire. None where litellm may be believed."""
    ends: list[str] = []
    if response.custom_llm_provider not in _MAKES_UP_ENDS:
        return None

    def watch(chunks: Any) -> Any:
        parse = chunks.chunk_parser

        def parse_watched(chunk: dict[str, Any]) -> Any:
            ends.extend(_ends(chunk))
            return parse(chunk)

        chunks.chunk_parser = parse_watched
        return chunks

    if (chunks := response.completion_stream) is not None:
        if not hasattr(chunks, "chunk_parser"):  # a guest on Vertex, which litellm calls by OpenAI's client
            return None
        watch(chunks)
        return ends
    connect = response.make_call

    async def connect_and_watch(**options: Any) -> Any:
        return watch(await connect(**options))

    response.make_call = connect_and_watch
    return ends


def _ends(chunk: dict[str, Any]) -> Iterator[str]:
    """As Anthropic names them, Gemini, and on Vertex others in the format of OpenAI."""
    named = [(chunk.get("delta") or {}).get("stop_reason")]
    named += [candidate.get("finishReason") for candidate in chunk.get("candidates") or ()]
    named.append((chunk.get("promptFeedback") or {}).get("blockReason"))
    named += [choice.get("finish_reason") for choice in chunk.get("choices") or ()]
    return filter(None, named)


async def _deltas(response: Any, model: str, ends: list[str] | None) -> AsyncGenerator[Delta, None]:
    """`ends` are those that the provider named; None where litellm may be believed."""
    cleaner = TextCleaner()
    usage = None
    thoughts, takes_plain = Thoughts(), model.startswith(_TAKE_PLAIN_REASONING)
    answered_by = model
    async for chunk in response:
        usage = getattr(chunk, "usage", None) or usage
        answered_by = chunk.model or answered_by
        for choice in chunk.choices[:1]:
            _gather(thoughts, choice.delta, takes_plain)
            for delta in _pieces(choice.delta, cleaner):
                yield delta
        # What has arrived already is parsed without a pause: for seconds, a burst would hold up all other runs.
        await asyncio.sleep(0)
    if rest := cleaner.rest():
        yield Said("text", rest)
    # litellm ends a stream that was merely cut off like a whole one, with a made-up reason (litellm#40260); what the
    # provider really said stands here.
    reason = response.received_finish_reason
    if ends is not None:
        reason = (response.intermittent_finish_reason or reason) if ends else None
    if reason is None:
        raise provider_error("stream_truncated")
    if ends and ends[-1] in _MALFORMED_CALL:
        raise provider_error("provider_error")
    if reason == "content_filter":
        raise ModelError("content_filter", "The model's provider withheld the rest of the answer.")
    # Where the provider counted nothing, litellm did; its own guess is in none of the chunks that came.
    estimated = not any(getattr(chunk, "usage", None) for chunk in response.chunks)
    answered_by = TextCleaner().clean(str(answered_by))
    yield Finished(str(reason), _usage(usage, model, estimated), answered_by, thoughts.echo())


def _gather(thoughts: Thoughts, delta: Any, takes_plain: bool) -> None:
    """As litellm takes it back: blocks of thinking (Anthropic), signatures of calls and of text (Gemini), and plain
    reasoning where `_TAKE_PLAIN_REASONING` says so."""
    if takes_plain and (thinking := getattr(delta, "reasoning_content", None)):
        thoughts.say("reasoning_content", thinking)
    thoughts.add_blocks("thinking_blocks", getattr(delta, "thinking_blocks", None))
    for call in delta.tool_calls or ():
        signature = (getattr(call, "provider_specific_fields", None) or {}).get("thought_signature")
        signed = {"provider_specific_fields": {"thought_signature": signature}} if signature else {}
        thoughts.sign_call(call.index or 0, **signed)
    # A chunk with calls repeats their signatures as its own.
    fields = (not delta.tool_calls and getattr(delta, "provider_specific_fields", None)) or {}
    if signatures := fields.get("thought_signatures"):
        thoughts.sign(provider_specific_fields={"thought_signatures": signatures})


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
