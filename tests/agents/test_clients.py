"""Both model clients, ours and litellm's, against the demo model over real HTTP: one contract, the same deltas."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from decimal import Decimal

import aiohttp
import pytest
from aiohttp import web

from agents.clients import ModelClients
from agents.clients.chat_completions import endpoint, wire_settings
from agents.clients.prices import cost_usd
from agents.demo.server import start_server
from agents.llm import (
    CallPiece,
    Delta,
    Finished,
    ModelClient,
    ModelError,
    ModelRequest,
    ModelSettings,
    Said,
    retry_after,
)

keys = (f"client{number}" for number in itertools.count())

MIB = 1024 * 1024
TOOL = {
    "type": "function",
    "function": {"name": "calculate", "description": "-", "parameters": {"type": "object", "properties": {}}},
}


@pytest.fixture(params=["ours", "litellm"])
async def client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ModelClients]:
    if request.param == "litellm":
        request.getfixturevalue("_litellm")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    clients = ModelClients(litellm_for_all=request.param == "litellm")
    yield clients
    await clients.close()


@pytest.fixture
async def base() -> AsyncIterator[str]:
    runner = await start_server("127.0.0.1", 0)
    yield address_of(runner)
    await runner.cleanup()


def address_of(runner: web.AppRunner) -> str:
    host, port = runner.addresses[0][:2]
    return f"http://{host}:{port}/v1"


def asked(base: str, text: str, *tools: dict[str, object], stall: float = 10) -> ModelRequest:
    return ModelRequest("openai/demo", [{"role": "user", "content": text}], tools, base, stall)


async def deltas(client: ModelClient, request: ModelRequest) -> list[Delta]:
    async with aclosing(client(request)) as stream:
        return [delta async for delta in stream]


def text(found: list[Delta], kind: str = "text") -> str:
    return "".join(delta.text for delta in found if isinstance(delta, Said) and delta.kind == kind)


async def sent(base: str, key: str) -> dict[str, object]:
    """The call as the model saw it."""
    async with aiohttp.ClientSession() as http, http.get(f"{base.removesuffix('/v1')}/stats?key={key}&bulky=1") as said:
        (call,) = (await said.json())["calls"]
        return dict(call)


async def test_text_arrives_as_it_was_sent_with_its_cost_and_its_end(client: ModelClients, base: str) -> None:
    key = next(keys)
    found = await deltas(client, asked(base, f"script:text tokens:40 key:{key}"))
    call = await sent(base, key)
    assert text(found) == call["sent_text"]
    assert len(found) == 41
    finished = found[-1]
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.usage.output_tokens, finished.usage.estimated) == ("stop", 40, False)
    assert finished.usage.input_tokens > 0
    assert finished.model.endswith("demo")


async def test_reasoning_is_told_from_text(client: ModelClients, base: str) -> None:
    key = next(keys)
    found = await deltas(client, asked(base, f"script:reasoning tokens:5 key:{key}"))
    call = await sent(base, key)
    assert (text(found), text(found, "reasoning")) == (call["sent_text"], call["sent_reasoning"])


async def test_reasoning_is_handed_on_for_the_provider_to_read_again(client: ModelClients, base: str) -> None:
    found = await deltas(client, asked(base, "script:reasoning tokens:5"))
    assert isinstance(found[-1], Finished)
    assert found[-1].echo.message == {"reasoning_content": text(found, "reasoning")}


async def test_a_tool_call_comes_in_pieces(client: ModelClients, base: str) -> None:
    arguments = '{"expression":"' + "1+" * 100 + '1"}'
    found = await deltas(client, asked(base, f"call:calculate={arguments}", TOOL))
    pieces = [delta for delta in found if isinstance(delta, CallPiece)]
    assert {piece.index for piece in pieces} == {0}
    assert [piece.name for piece in pieces if piece.name] == ["calculate"]
    assert json.loads("".join(piece.arguments for piece in pieces)) == json.loads(arguments)
    assert isinstance(found[-1], Finished)
    assert found[-1].reason == "tool_calls"


async def test_many_calls_keep_apart(client: ModelClients, base: str) -> None:
    found = await deltas(client, asked(base, "script:many_calls", TOOL))
    names = [delta for delta in found if isinstance(delta, CallPiece) and delta.name]
    assert [piece.index for piece in names] == list(range(200))


@pytest.mark.parametrize(
    ("wishes", "size"),
    [("script:empty", 0), (f"script:big_delta size:{MIB}", MIB), ("script:many_deltas size:8", 80_000)],
)
async def test_any_amount_of_text_is_taken(client: ModelClients, base: str, wishes: str, size: int) -> None:
    assert len(text(await deltas(client, asked(base, wishes))).encode()) == size


async def test_text_that_no_database_takes_is_replaced(client: ModelClients, base: str) -> None:
    found = await deltas(client, asked(base, "script:nul"))
    assert text(found) == "before\ufffdafter lone \ufffd and \ufffd end"


async def test_the_settings_of_a_role_reach_the_provider(client: ModelClients, base: str) -> None:
    key = next(keys)
    settings = ModelSettings(temperature=0.0, top_p=0.5, max_tokens=100, seed=-7)
    request = asked(base, f"script:text tokens:2 key:{key}")
    await deltas(client, replace(request, settings=settings))
    said = (await sent(base, key))["settings"]
    assert said == {"temperature": 0.0, "top_p": 0.5, "max_tokens": 100, "seed": -7}
    # and what a role leaves open is left to the provider
    key = next(keys)
    await deltas(client, asked(base, f"script:text tokens:2 key:{key}"))
    assert (await sent(base, key))["settings"] == {}


async def test_a_usage_nobody_sent_is_marked_estimated(client: ModelClients, base: str) -> None:
    finished = (await deltas(client, asked(base, "script:no_usage tokens:5")))[-1]
    assert isinstance(finished, Finished)
    assert finished.usage.estimated


@pytest.mark.parametrize(
    ("wishes", "code", "transient"),
    [
        ("status:400", "bad_request", False),
        ("status:401", "authentication", False),
        ("status:403", "permission", False),
        ("status:404", "not_found", False),
        ("script:overflow", "context_overflow", False),
        ("status:429 retry_after:2", "rate_limit", True),
        ("status:500", "provider_error", True),
        ("status:503", "overloaded", True),
    ],
)
async def test_a_refusal_has_our_code_and_none_of_the_provider_s_words(
    client: ModelClients, base: str, wishes: str, code: str, transient: bool
) -> None:
    with pytest.raises(ModelError) as caught:
        await deltas(client, asked(base, wishes))
    error = caught.value
    assert (error.code, error.transient) == (code, transient)
    assert error.retry_after == (2 if "retry_after" in wishes else None)
    assert "sk-canary" not in str(error)


@pytest.mark.parametrize("script", ["reset", "eof", "malformed", "error", "no_finish"])
@pytest.mark.parametrize("after", [0, 5])
async def test_an_answer_that_broke_off_is_an_error_that_may_pass(
    client: ModelClients, base: str, script: str, after: int
) -> None:
    with pytest.raises(ModelError) as caught:
        await deltas(client, asked(base, f"script:{script} after:{after}"))
    assert caught.value.transient


@pytest.mark.parametrize("where", ["http://127.0.0.1:9/v1", "http://provider.invalid/v1"])
async def test_a_provider_that_is_not_there_may_come_back(client: ModelClients, where: str) -> None:
    with pytest.raises(ModelError) as caught:
        await deltas(client, asked(where, "-"))
    assert caught.value.transient


@pytest.mark.parametrize("script", ["no_headers", "hang", "stall after:3"])
async def test_a_silent_provider_is_left_after_the_stall_time(client: ModelClients, base: str, script: str) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(ModelError) as caught:
        await deltas(client, asked(base, f"script:{script}", stall=1))
    assert caught.value.transient
    assert 0.9 < loop.time() - began < 3


@pytest.mark.parametrize("how", ["close", "cancel"])
async def test_leaving_closes_the_provider_s_socket(client: ModelClients, base: str, how: str) -> None:
    key = next(keys)
    stream = client(asked(base, f"script:text tokens:2000 rate:50 key:{key}"))
    task = asyncio.ensure_future(anext(stream))
    await task
    if how == "close":
        await stream.aclose()
    else:
        task = asyncio.ensure_future(deltas(lambda _: stream, asked(base, "-")))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await asyncio.sleep(0.3)
    assert (await sent(base, key))["outcome"] == "client_closed"


# Ours alone


@pytest.fixture
async def ours() -> AsyncIterator[ModelClients]:
    clients = ModelClients()
    yield clients
    await clients.close()


async def say(raw: list[bytes], pieces: int = 0) -> tuple[web.AppRunner, str]:
    """A provider that sends these bytes whatever it is asked, in pieces of so many bytes."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        data = b"".join(raw)
        for start in range(0, len(data), pieces or len(data)):
            await response.write(data[start : start + (pieces or len(data))])
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, address_of(runner)


def frame(**delta: object) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": delta}]}).encode() + b"\n\n"


STOP = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize("pieces", [1, 2, 7, 0])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
async def test_the_framing_is_that_of_server_sent_events(ours: ModelClients, pieces: int, newline: bytes) -> None:
    raw = [
        b": a comment\n\n",
        b"event: message\nid: 1\n" + frame(content="ä€"),
        b'data:{"choices":\ndata: [{"delta":{"content":" two lines"}}]}\n\n',
        STOP,
        frame(content="never"),
    ]
    runner, base = await say([part.replace(b"\n", newline) for part in raw], pieces)
    found = await deltas(ours, asked(base, "-"))
    assert text(found) == "ä€ two lines"
    await runner.cleanup()


async def test_calls_without_a_number_are_told_apart_by_their_names(ours: ModelClients) -> None:
    calls = [{"function": {"name": "first", "arguments": "{"}}, {"function": {"arguments": "}"}}]
    second = {"function": {"name": "second", "arguments": "{}"}}
    runner, base = await say([frame(tool_calls=[call]) for call in [*calls, second]] + [STOP])
    found = [delta for delta in await deltas(ours, asked(base, "-")) if isinstance(delta, CallPiece)]
    assert [(piece.index, piece.name, piece.arguments) for piece in found] == [
        (0, "first", "{"),
        (0, "", "}"),
        (1, "second", "{}"),
    ]
    await runner.cleanup()


async def test_an_event_without_end_is_not_read_for_ever(ours: ModelClients) -> None:
    runner, base = await say([b"data: " + b"x" * 17 * MIB])
    with pytest.raises(ModelError, match="error"):
        await deltas(ours, asked(base, "-"))
    await runner.cleanup()


async def test_the_effort_of_a_role_reaches_the_provider(ours: ModelClients, base: str) -> None:
    # litellm sends it to the models alone of which it knows that they reason
    key = next(keys)
    request = asked(base, f"script:text tokens:2 key:{key}")
    await deltas(ours, replace(request, settings=ModelSettings(reasoning_effort="low")))
    assert (await sent(base, key))["settings"] == {"reasoning_effort": "low"}


def test_openai_itself_has_another_name_for_the_length_of_an_answer() -> None:
    settings = ModelSettings(temperature=1.0, max_tokens=100)
    there = wire_settings(settings, endpoint("openai/gpt-5", None)[0])
    assert there == {"temperature": 1.0, "max_completion_tokens": 100}
    assert wire_settings(settings, endpoint("openai/demo", "http://here/v1")[0]) == settings.given


@pytest.mark.parametrize(
    ("model", "base", "expected"),
    [
        ("openai/gpt-4.1-mini", None, ("https://api.openai.com/v1/chat/completions", "sk-1", "gpt-4.1-mini")),
        ("openai/demo", "http://here/v1/", ("http://here/v1/chat/completions", "sk-1", "demo")),
        ("ollama_chat/llama3", None, ("http://localhost:11434/v1/chat/completions", None, "llama3")),
        ("ollama_chat/llama3", "http://gpu:1", ("http://gpu:1/v1/chat/completions", "sk-1", "llama3")),
        ("anthropic/claude", "http://proxy/v1", ("http://proxy/v1/chat/completions", "sk-2", "anthropic/claude")),
    ],
)
def test_a_model_s_name_says_where_it_is(
    monkeypatch: pytest.MonkeyPatch, model: str, base: str | None, expected: tuple[str, str | None, str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-2")
    assert endpoint(model, base) == expected


@pytest.mark.parametrize("model", ["gpt-4.1-mini", "openai/gpt-4.1", "gpt-5.5", "gemini/gemini-2.5-pro"])
@pytest.mark.parametrize("tokens", [(1000, 500, 0), (1000, 0, 400), (210_000, 10, 0), (300_000, 10, 1000)])
@pytest.mark.usefixtures("_litellm")
def test_prices_are_litellm_s(model: str, tokens: tuple[int, int, int]) -> None:
    import litellm

    prompt, completion, cached = tokens
    expected = sum(
        litellm.cost_per_token(
            model=model, prompt_tokens=prompt, completion_tokens=completion, cache_read_input_tokens=cached
        )
    )
    assert expected > 0
    assert cost_usd(model, prompt, completion, cached) == pytest.approx(Decimal(str(expected)), rel=Decimal("1e-4"))


def test_a_model_without_a_price_costs_nothing() -> None:
    assert cost_usd("openai/demo", 1000, 1000) == 0


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("2", 2), ("1.5", 1.5), ("-1", 0), ("nan", None), ("86400", None), ("soon", None), ("", None)],
)
def test_when_to_come_back_is_read_with_caution(said: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": said}) == seconds
    assert retry_after(None) is None
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
