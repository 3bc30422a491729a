"""Anthropic and Gemini through litellm, each in its own wire format: what comes, what goes back, what goes wrong."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from agents.clients import over_litellm
from agents.llm import CallPiece, Delta, Finished, ModelError, ModelRequest, ModelSettings, Said
from agents.loop import run_agent
from agents.steps import ModelStep
from tests.agents.test_loop import turn
from tests.agents.wires import (
    Answer,
    Wire,
    anthropic,
    anthropic_error,
    anthropic_event,
    call_block,
    gemini,
    gemini_error,
    listening,
    redacted_block,
    text_block,
    thinking_block,
)

pytestmark = pytest.mark.usefixtures("_litellm")

CLAUDE, GEMINI = "anthropic/claude-sonnet-4-5", "gemini/gemini-2.5-pro"
THINKS = ModelSettings(reasoning_effort="low")


@pytest.fixture
async def wire(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Wire]:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-canary")
    monkeypatch.setenv("GEMINI_API_KEY", "sk-canary")
    async with listening() as wire:
        yield wire


async def deltas(wire: Wire, model: str, **more: Any) -> list[Delta]:
    request = ModelRequest(model, [{"role": "user", "content": "hello"}], (), wire.address, 5, **more)
    async with aclosing(over_litellm.stream(request)) as stream:
        return [delta async for delta in stream]


async def whole_turn(wire: Wire, model: str) -> Sequence[ModelStep]:
    """Of an agent that may double numbers."""
    changes = {"model": model, "api_base": wire.address, "settings": THINKS}
    async with aclosing(run_agent(over_litellm.stream, turn(**changes), [])) as events:
        return [event async for event in events if isinstance(event, ModelStep)]


@pytest.mark.parametrize(
    ("model", "answer", "tokens"),
    [
        (CLAUDE, anthropic(text_block("hel", "lo ä€")), (25, 7, 5)),
        (GEMINI, gemini({"text": "hel"}, {"text": "lo ä€"}), (20, 7, 5)),
    ],
)
async def test_text_comes_with_what_it_used_and_cost(
    wire: Wire, model: str, answer: bytes, tokens: tuple[int, int, int]
) -> None:
    wire.will(answer)
    *said, end = await deltas(wire, model)
    assert said == [Said("text", "hel"), Said("text", "lo ä€")]
    assert isinstance(end, Finished)
    assert (end.reason, end.usage.estimated) == ("stop", False)
    assert (end.usage.input_tokens, end.usage.output_tokens, end.usage.cached_tokens) == tokens
    assert end.usage.cost_usd > 0


@pytest.mark.parametrize(
    ("model", "answer"),
    [
        (CLAUDE, anthropic(call_block("a", '{"x":', " 1}"), call_block("b", "{}"), stop="tool_use")),
        (
            GEMINI,
            gemini({"functionCall": {"name": "a", "args": {"x": 1}}}, {"functionCall": {"name": "b", "args": {}}}),
        ),
    ],
)
async def test_calls_at_once_keep_apart(wire: Wire, model: str, answer: bytes) -> None:
    wire.will(answer)
    found = await deltas(wire, model)
    pieces = [delta for delta in found if isinstance(delta, CallPiece)]
    assert [(piece.index, piece.name) for piece in pieces if piece.name] == [(0, "a"), (1, "b")]
    arguments = ["".join(piece.arguments for piece in pieces if piece.index == index) for index in (0, 1)]
    assert [text.replace(" ", "") for text in arguments] == ['{"x":1}', "{}"]
    assert isinstance(found[-1], Finished)
    assert found[-1].reason == "tool_calls"


async def test_claude_reads_its_signed_thoughts_again_before_the_result_of_its_call(wire: Wire) -> None:
    thought = thinking_block("signed", "h", "m"), redacted_block("secret"), text_block("let me see")
    wire.will(anthropic(*thought, call_block("double", '{"number": 4}'), stop="tool_use"), anthropic(text_block("8")))
    first, second = await whole_turn(wire, CLAUDE)
    assert [part["type"] for part in first.parts] == ["step-start", "reasoning", "text", "tool-double"]
    assert second.parts[-1]["text"] == "8"
    answered, asked = wire.asked[1]["messages"][-2:]
    call_id = first.calls[0].id
    assert answered["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "signed"},
        {"type": "redacted_thinking", "data": "secret"},
        {"type": "text", "text": "let me see"},
        {"type": "tool_use", "id": call_id, "name": "double", "input": {"number": 4}},
    ]
    (result,) = asked["content"]
    assert (result["type"], result["tool_use_id"]) == ("tool_result", call_id)
    assert "8" in str(result["content"])
    assert wire.asked[1]["thinking"]["type"] == "enabled"


async def test_gemini_reads_the_signature_of_its_call_again(wire: Wire) -> None:
    signed = {"functionCall": {"name": "double", "args": {"number": 4}}, "thoughtSignature": "c2lnbmVk"}
    wire.will(gemini({"text": "hm", "thought": True}, signed), gemini({"text": "8"}))
    first, second = await whole_turn(wire, GEMINI)
    assert [part["type"] for part in first.parts] == ["step-start", "reasoning", "tool-double"]
    assert second.parts[-1]["text"] == "8"
    answered, asked = wire.asked[1]["contents"][-2:]
    assert [part for part in answered["parts"] if "function_call" in part] == [
        {"function_call": {"name": "double", "args": {"number": 4}}, "thoughtSignature": "c2lnbmVk"}
    ]
    (result,) = asked["parts"]
    assert result["function_response"]["name"] == "double"
    assert "8" in str(result["function_response"]["response"])


async def test_gemini_reads_the_signature_of_what_it_said_before_a_call_again(wire: Wire) -> None:
    said, called = {"text": "let me see"}, {"functionCall": {"name": "double", "args": {"number": 4}}}
    wire.will(gemini({**said, "thoughtSignature": "dGV4dA=="}, {**called, "thoughtSignature": "Y2FsbA=="}), gemini())
    await whole_turn(wire, GEMINI)
    text, call = wire.asked[1]["contents"][-2]["parts"]
    assert text == {"text": "let me see", "thoughtSignature": "dGV4dA=="}
    assert call["thoughtSignature"] == "Y2FsbA=="


async def test_of_calls_at_once_each_keeps_its_own_signature(wire: Wire) -> None:
    first, second = ({"functionCall": {"name": "double", "args": {"number": number}}} for number in (4, 5))
    wire.will(gemini(first, {**second, "thoughtSignature": "c2lnbmVk"}), gemini({"text": "8"}))
    await whole_turn(wire, GEMINI)
    assert [part.get("thoughtSignature") for part in wire.asked[1]["contents"][-2]["parts"]] == [None, "c2lnbmVk"]


async def test_claude_is_not_asked_to_think_on_from_a_call_without_thoughts(wire: Wire) -> None:
    # it refuses that; another model made the call, or what came with it could not be stored
    wire.will(anthropic(call_block("double", '{"number": 4}'), stop="tool_use"), anthropic(text_block("8")))
    await whole_turn(wire, CLAUDE)
    assert "thinking" in wire.asked[0]
    assert "thinking" not in wire.asked[1]


TOO_LONG = {
    CLAUDE: "prompt is too long: 210000 tokens > 200000 maximum",
    GEMINI: "The input token count (1100000) exceeds the maximum number of tokens allowed (1048576).",
}


@pytest.mark.parametrize(
    ("model", "status", "body", "code"),
    [
        (CLAUDE, 400, anthropic_error("invalid_request_error"), "bad_request"),
        (CLAUDE, 400, anthropic_error("invalid_request_error", TOO_LONG[CLAUDE]), "context_overflow"),
        (CLAUDE, 401, anthropic_error("authentication_error"), "authentication"),
        (CLAUDE, 403, anthropic_error("permission_error"), "permission"),
        (CLAUDE, 404, anthropic_error("not_found_error"), "not_found"),
        (CLAUDE, 413, anthropic_error("request_too_large"), "context_overflow"),
        (CLAUDE, 429, anthropic_error("rate_limit_error"), "rate_limit"),
        (CLAUDE, 500, anthropic_error("api_error"), "provider_error"),
        (CLAUDE, 529, anthropic_error("overloaded_error"), "overloaded"),
        (GEMINI, 400, gemini_error(400, "INVALID_ARGUMENT"), "bad_request"),
        (GEMINI, 400, gemini_error(400, "INVALID_ARGUMENT", TOO_LONG[GEMINI]), "context_overflow"),
        (GEMINI, 400, gemini_error(400, "INVALID_ARGUMENT", "API key not valid. sk-canary"), "authentication"),
        (GEMINI, 401, gemini_error(401, "UNAUTHENTICATED"), "authentication"),
        (GEMINI, 403, gemini_error(403, "PERMISSION_DENIED"), "permission"),
        (GEMINI, 404, gemini_error(404, "NOT_FOUND"), "not_found"),
        (GEMINI, 429, gemini_error(429, "RESOURCE_EXHAUSTED"), "rate_limit"),
        (GEMINI, 500, gemini_error(500, "INTERNAL"), "provider_error"),
        (GEMINI, 503, gemini_error(503, "UNAVAILABLE"), "overloaded"),
        (GEMINI, 504, gemini_error(504, "DEADLINE_EXCEEDED"), "timeout"),
    ],
)
async def test_a_refusal_has_our_code_and_none_of_the_provider_s_words(
    wire: Wire, model: str, status: int, body: bytes, code: str
) -> None:
    wire.will(Answer(body, status, {"retry-after": "3"} if status == 429 else {}))
    with pytest.raises(ModelError) as caught:
        await deltas(wire, model)
    assert caught.value.code == code
    assert caught.value.retry_after == (3 if status == 429 else None)
    assert "sk-canary" not in str(caught.value)


BUSY = anthropic_event({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
NO_REASON = anthropic_event({"type": "message_delta", "delta": {"stop_reason": None}, "usage": {"output_tokens": 3}})
LIMITED = b"data: " + gemini_error(429, "RESOURCE_EXHAUSTED") + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("model", "answer", "code"),
    [
        (CLAUDE, BUSY, "overloaded"),
        (CLAUDE, anthropic(text_block("half"), stop=None) + BUSY, "overloaded"),
        (CLAUDE, anthropic(text_block("half"), stop=None) + NO_REASON, "stream_truncated"),
        (GEMINI, gemini({"text": "half"}, reason=None) + LIMITED, "rate_limit"),
        (GEMINI, gemini({"text": "half"}, reason=None), "stream_truncated"),
        (GEMINI, gemini({"text": "half"}, reason="MALFORMED_FUNCTION_CALL"), "provider_error"),
    ],
)
async def test_an_error_in_mid_stream_has_our_code(wire: Wire, model: str, answer: bytes, code: str) -> None:
    wire.will(answer)
    with pytest.raises(ModelError) as caught:
        await deltas(wire, model)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("model", "answer"),
    [
        (CLAUDE, anthropic(text_block("half"), stop="max_tokens")),
        (GEMINI, gemini({"text": "half"}, reason="MAX_TOKENS")),
    ],
)
async def test_an_answer_that_ran_into_its_limit_says_so(wire: Wire, model: str, answer: bytes) -> None:
    wire.will(answer)
    end = (await deltas(wire, model))[-1]
    assert isinstance(end, Finished)
    assert end.reason == "length"


@pytest.mark.parametrize(
    ("model", "answer"),
    [
        (CLAUDE, Answer(anthropic(text_block("half"), stop=None))),
        (CLAUDE, Answer(anthropic(text_block("half"), stop=None), cut=True)),
        (CLAUDE, Answer(anthropic(text_block("half"), stop=None) + BUSY)),
        (CLAUDE, Answer(b"<html>hello</html>")),
        (CLAUDE, Answer()),
        (GEMINI, Answer(gemini({"text": "half"}, reason=None))),
        (GEMINI, Answer(gemini({"functionCall": {"name": "a", "args": {}}}, reason=None))),
        (GEMINI, Answer(gemini({"text": "half"}, reason=None), cut=True)),
        (
            GEMINI,
            Answer(gemini({"text": "half"}, reason=None) + b"data: " + gemini_error(503, "UNAVAILABLE") + b"\r\n\r\n"),
        ),
        (GEMINI, Answer(b"<html>hello</html>")),
        (GEMINI, Answer()),
    ],
)
async def test_an_answer_that_broke_off_is_none_and_may_come_later(wire: Wire, model: str, answer: Answer) -> None:
    wire.will(answer)
    with pytest.raises(ModelError) as caught:
        await deltas(wire, model)
    assert caught.value.transient


@pytest.mark.parametrize(
    ("model", "answer"),
    [
        (CLAUDE, anthropic(text_block("no"), stop="refusal")),
        (GEMINI, gemini({"text": "no"}, reason="SAFETY")),
        (GEMINI, b'data: {"promptFeedback": {"blockReason": "SAFETY"}}\r\n\r\n'),
    ],
)
async def test_what_a_provider_withholds_is_told_as_such(wire: Wire, model: str, answer: bytes) -> None:
    wire.will(answer)
    with pytest.raises(ModelError) as caught:
        await deltas(wire, model)
    assert caught.value.code == "content_filter"


@pytest.mark.parametrize(
    ("model", "answer"),
    [(CLAUDE, anthropic(text_block("half"), stop=None)), (GEMINI, gemini({"text": "half"}, reason=None))],
)
async def test_leaving_closes_the_provider_s_socket(wire: Wire, model: str, answer: bytes) -> None:
    wire.will(Answer(answer, hang=True))
    task = asyncio.create_task(deltas(wire, model))
    async with asyncio.timeout(5):
        while not wire.asked:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(wire.left.wait(), 2)
