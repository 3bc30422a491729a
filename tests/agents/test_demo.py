"""The demo model, asked over real HTTP."""

import asyncio
import itertools
import json
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from agents.demo.answers import SLOW
from agents.demo.scripts import SCRIPTS, token
from agents.demo.server import start_server
from agents.history import GO_ON
from runs import titles
from tests.timing import in_time

JsonObject = dict[str, object]
keys = (f"key{number}" for number in itertools.count())

TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("current_time", "calculate")
]


@dataclass
class Streamed:
    """What a client made of one streamed answer."""

    text: str = ""
    reasoning: str = ""
    calls: dict[int, list[str]] = field(default_factory=dict)  # index -> id, name, arguments
    finish_reason: str | None = None
    usage: JsonObject | None = None
    deltas: int = 0
    done: bool = False

    def feed(self, frame: str) -> None:
        if frame == "[DONE]":
            self.done = True
            return
        chunk = json.loads(frame)
        self.usage = chunk.get("usage") or self.usage
        for choice in chunk["choices"]:
            self.finish_reason = choice["finish_reason"] or self.finish_reason
            self._feed_delta(choice["delta"])

    def _feed_delta(self, delta: dict[str, str]) -> None:
        self.deltas += bool(delta.get("content"))
        self.text += delta.get("content") or ""
        self.reasoning += delta.get("reasoning_content") or ""
        for part in json.loads(json.dumps(delta.get("tool_calls", []))):
            call = self.calls.setdefault(part["index"], ["", "", ""])
            call[0] += part.get("id", "")
            call[1] += part["function"].get("name", "")
            call[2] += part["function"]["arguments"]


@dataclass
class Client:
    http: aiohttp.ClientSession
    base: str

    def post(self, messages: object, **fields: object) -> "aiohttp.client._RequestContextManager":
        body = {"model": "demo", "stream": True, "messages": messages} | fields
        return self.http.post(f"{self.base}/v1/chat/completions", data=json.dumps(body))

    async def stream(self, messages: object, **fields: object) -> Streamed:
        async with self.post(_messages(messages), **fields) as response:
            assert response.status == 200, await response.text()
            return await read(response)

    async def stats(self, query: str = "") -> dict[str, Any]:
        async with self.http.get(f"{self.base}/stats{query}") as response:
            return dict(await response.json())

    async def call(self, key: str) -> JsonObject:
        call: JsonObject
        (call,) = (await self.stats(f"?key={key}"))["calls"]
        return call

    async def closed_call(self, key: str) -> JsonObject:
        """The record once it is closed; the server hears of a closed socket a moment after us."""
        while (call := await self.call(key))["outcome"] == "open":
            await asyncio.sleep(0.001)
        return call


def _messages(messages: object) -> object:
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else messages


async def read(response: aiohttp.ClientResponse) -> Streamed:
    streamed = Streamed()
    async for frame in frames(response):
        streamed.feed(frame)
    return streamed


async def frames(response: aiohttp.ClientResponse) -> AsyncIterator[str]:
    buffer = b""
    async for data in response.content.iter_any():
        *whole, buffer = (buffer + data).split(b"\n\n")
        for frame in whole:
            if frame.startswith(b"data: "):
                yield frame.removeprefix(b"data: ").decode()


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    runner = await start_server("127.0.0.1", 0)
    host, port = runner.addresses[0][:2]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        yield Client(http, f"http://{host}:{port}")
    await runner.cleanup()


@pytest.fixture
def key() -> str:
    return next(keys)


def tokens(count: int, first: int = 0, size: int = 0) -> str:
    return "".join(token(index, size).text for index in range(first, count))


def tool_turn(prompt: str, steps: int) -> list[JsonObject]:
    """The history of a turn in which so many tool steps were taken."""
    history: list[JsonObject] = [{"role": "user", "content": prompt}]
    for step in range(steps):
        call = {"id": f"c{step}", "type": "function", "function": {"name": "calculate", "arguments": "{}"}}
        history.append({"role": "assistant", "content": None, "tool_calls": [call]})
        history.append({"role": "tool", "tool_call_id": f"c{step}", "content": f"result {step}"})
    return history


# Text


async def test_a_text_is_the_same_every_time_and_recorded_as_sent(client: Client, key: str) -> None:
    streamed = await client.stream(f"script:text tokens:200 key:{key}")

    assert streamed.text == tokens(200)
    assert not streamed.text.isascii()
    assert (streamed.deltas, streamed.finish_reason, streamed.done, streamed.usage) == (200, "stop", True, None)
    call = await client.call(key)
    assert (call["sent_text"], call["outcome"], call["script"], call["step"]) == (tokens(200), "finished", "text", 0)
    assert call["messages"] == [{"role": "user", "content": f"script:text tokens:200 key:{key}"}]


async def test_chunks_have_the_size_that_was_asked_for(client: Client) -> None:
    streamed = await client.stream("tokens:7 size:64")
    assert len(streamed.text.encode()) == 7 * 64


async def test_chunks_come_at_their_rate_without_drift(client: Client, key: str) -> None:
    await client.stream(f"tokens:50 rate:100 key:{key}")
    call = await client.call(key)
    assert 0.49 <= float(str(call["closed_at"])) - float(str(call["first_chunk_at"])) < 0.8


async def test_usage_is_sent_when_it_is_asked_for(client: Client) -> None:
    asked = await client.stream("tokens:5", stream_options={"include_usage": True})
    assert asked.usage is not None
    assert asked.usage["completion_tokens"] == 5
    assert (await client.stream("script:no_usage", stream_options={"include_usage": True})).usage is None


async def test_without_streaming_the_answer_comes_whole(client: Client, key: str) -> None:
    async with client.post(_messages(f"script:reasoning tokens:5 key:{key}"), stream=False) as response:
        answer = await response.json()

    assert answer["choices"][0]["message"] == {
        "role": "assistant",
        "content": tokens(5),
        "reasoning_content": (await client.call(key))["sent_reasoning"],
    }
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 10


async def test_reasoning_comes_before_the_text(client: Client, key: str) -> None:
    streamed = await client.stream(f"script:reasoning tokens:3 key:{key}")
    assert streamed.reasoning == (await client.call(key))["sent_reasoning"] == "thought0 ünd thought1 ünd thought2 ünd "
    assert streamed.text == tokens(3)
    only = await client.stream("script:only_reasoning tokens:3")
    assert (only.reasoning, only.text, only.finish_reason) == (streamed.reasoning, "", "stop")


async def test_odd_texts_arrive(client: Client) -> None:
    assert (await client.stream("script:nul")).text == "before\0after lone \ud800 and \udfff end"
    assert (await client.stream("script:empty")).finish_reason == "stop"
    big = await client.stream("script:big_delta")
    assert (big.deltas, len(big.text.encode())) == (1, 1024 * 1024)
    assert (await client.stream("script:many_deltas")).deltas == 10_000
    assert (await client.stream("script:length tokens:2")).finish_reason == "length"
    assert (await client.stream("script:content_filter tokens:2")).finish_reason == "content_filter"


# People


@pytest.mark.parametrize(
    ("prompt", "script"),
    [
        ("Good morning", "hello"),
        ("what is a script: tell me", "hello"),
        ("Be SLOW, please", "slow"),
        ("draw a table", "markdown"),
        ("Think hard", "think"),
    ],
)
async def test_plain_words_choose_a_script(client: Client, key: str, prompt: str, script: str) -> None:
    streamed = await client.stream(f"{prompt} key:{key} rate:0")
    assert len(streamed.text) > 200
    assert (await client.call(key))["script"] == script


async def test_a_conversation_is_given_a_title_by_its_opening(client: Client) -> None:
    history = [
        {"role": "user", "content": "What is the time in Paris, by the way? key:none status:500"},
        {"role": "assistant", "content": "Noon."},
        {"role": "user", "content": titles.REQUEST},
    ]
    assert (await client.stream(history)).text == "About: What is the time in Paris"


async def test_a_long_answer_is_gone_on_with_where_it_was_interrupted(client: Client) -> None:
    def interrupted(said: str) -> list[JsonObject]:
        question, answer = {"role": "user", "content": "slow"}, {"role": "assistant", "content": said}
        return [question, answer, {"role": "user", "content": f"{GO_ON} rate:0"}]

    assert SLOW[:20] + (await client.stream(interrupted(SLOW[:20]))).text == SLOW
    assert (await client.stream(interrupted("something else"))).text == "That was all I had to say."


async def test_the_default_answer_quotes_what_was_asked(client: Client) -> None:
    streamed = await client.stream("Where is   my \n hat? rate:0")
    assert "demo model" in streamed.text
    assert "“Where is my hat? rate:0”" in streamed.text


@pytest.mark.parametrize(
    ("prompt", "name", "arguments"),
    [
        ("time in Paris?", "current_time", {"zone": "Europe/Paris"}),
        ("What is the time in New York now", "current_time", {"zone": "America/New_York"}),
        ("time in Asia/Kolkata please", "current_time", {"zone": "Asia/Kolkata"}),
        ("calculate 2*(3+4)", "calculate", {"expression": "2*(3+4)"}),
        ("use a tool", "current_time", {"zone": "UTC"}),
    ],
)
async def test_people_get_tools_by_plain_words(client: Client, prompt: str, name: str, arguments: JsonObject) -> None:
    streamed = await client.stream(prompt + " rate:0", tools=TOOLS)
    assert [call[1] for call in streamed.calls.values()] == [name]
    assert json.loads(streamed.calls[0][2]) == arguments

    answer = await client.stream(tool_turn(prompt + " rate:0", 1), tools=TOOLS)
    assert answer.text == "The tool answered: result 0"
    assert f"I would call {name} now" in (await client.stream(prompt + " rate:0")).text


async def test_directives_win_over_plain_words(client: Client) -> None:
    assert (await client.stream("fail slow hang tool tokens:2")).text == tokens(2)


# Tools


async def test_steps_are_counted_in_the_history_alone(client: Client, key: str) -> None:
    prompt = (
        f'call:calculate={{"expression": "6 * 7"}} call:current_time then: calls:nothing,calculate tokens:2 key:{key}'
    )

    first = await client.stream(prompt, tools=TOOLS)
    second = await client.stream(tool_turn(prompt, 1), tools=TOOLS)
    third = await client.stream(tool_turn(prompt, 2), tools=TOOLS)

    assert list(first.calls.values()) == [
        ["call_0_0", "calculate", '{"expression": "6 * 7"}'],
        ["call_0_1", "current_time", '{"zone":"UTC"}'],
    ]
    assert first.finish_reason == "tool_calls"
    assert [call[1] for call in second.calls.values()] == ["nothing", "calculate"]
    assert (third.text, third.calls) == (tokens(2), {})
    assert [call["step"] for call in (await client.stats(f"?key={key}"))["calls"]] == [0, 1, 2]


async def test_an_earlier_turn_does_not_count(client: Client) -> None:
    history = [*tool_turn("steps:2 tokens:1", 2), {"role": "assistant", "content": "done"}]
    streamed = await client.stream([*history, {"role": "user", "content": "steps:2"}], tools=TOOLS)
    assert streamed.calls[0][0] == "call_0_0"


@pytest.mark.parametrize("steps", range(4))
async def test_a_step_may_be_repeated_and_speak_before_its_calls(client: Client, steps: int) -> None:
    streamed = await client.stream(tool_turn("steps:3 say:2 tokens:5", steps), tools=TOOLS)
    assert (streamed.text, bool(streamed.calls)) == ((tokens(2), True) if steps < 3 else (tokens(5), False))


async def test_an_endless_loop_ends_when_no_tools_are_offered(client: Client) -> None:
    assert (await client.stream(tool_turn("script:endless", 40), tools=TOOLS)).calls
    assert (await client.stream(tool_turn("script:endless", 40))).text == tokens(20)


async def test_bad_tool_calls(client: Client) -> None:
    async def calls(script: str) -> list[list[str]]:
        return list((await client.stream(f"script:{script}", tools=TOOLS)).calls.values())

    assert await calls("broken_json") == [["call_0_0", "current_time", '{"zone": "Eur']]
    assert (await calls("unknown_tool"))[0][1] == "no_such_tool"
    assert [call[0] for call in await calls("duplicate_ids")] == ["call_0_0", "call_0_0"]
    assert len({call[0] for call in await calls("many_calls")}) == 200
    assert len((await calls("big_arguments"))[0][2]) > 5 * 1024 * 1024


async def test_without_streaming_tool_calls_come_whole(client: Client) -> None:
    async with client.post(_messages("script:tools"), stream=False, tools=TOOLS) as response:
        (choice,) = (await response.json())["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "current_time", "arguments": '{"zone":"UTC"}'}


# Faults


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503])
async def test_an_error_status_leaks_the_authorization_header(client: Client, key: str, status: int) -> None:
    client.http.headers["Authorization"] = "Bearer sk-canary"
    async with client.post(_messages(f"status:{status} retry_after:7 key:{key}")) as response:
        error = (await response.json())["error"]
        assert (response.status, response.headers["Retry-After"]) == (status, "7")
    assert "sk-canary" in error["message"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (await client.call(key))["outcome"] == "failed"


async def test_a_context_overflow_looks_like_openais(client: Client) -> None:
    async with client.post(_messages("script:overflow")) as response:
        assert response.status == 400
        assert (await response.json())["error"]["code"] == "context_length_exceeded"


async def test_a_fault_with_times_passes(client: Client, key: str) -> None:
    prompt = f"status:503 times:2 tokens:4 key:{key}"
    for _ in range(2):
        async with client.post(_messages(prompt)) as response:
            assert response.status == 503
    assert (await client.stream(prompt)).text == tokens(4)


async def test_tool_steps_do_not_use_up_the_times_of_a_fault(client: Client, key: str) -> None:
    prompt = f"script:no_finish after:1 steps:1 times:1 key:{key}"
    assert (await client.stream(prompt, tools=TOOLS)).calls
    assert not (await client.stream(tool_turn(prompt, 1), tools=TOOLS)).done
    assert (await client.stream(tool_turn(prompt, 1), tools=TOOLS)).done


@pytest.mark.parametrize("script", ["no_headers", "hang", "stall", "keepalive", "drip", "text rate:0.01"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_is_noticed_at_once(client: Client, key: str, script: str, *, stream: bool) -> None:
    # given a call that goes on and on
    call = asyncio.create_task(_hold(client, f"script:{script} every:5 key:{key}", stream=stream))
    while not (await client.stats(f"?key={key}&messages=0"))["calls"]:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.02)

    # when its client goes away
    left_at = time.time()
    call.cancel()

    # then it is closed
    closed = await client.closed_call(key)
    assert closed["outcome"] == "client_closed"
    assert -0.001 <= float(str(closed["closed_at"])) - left_at < 0.25


async def _hold(client: Client, prompt: str, *, stream: bool) -> None:
    async with client.post(_messages(prompt), stream=stream) as response:
        await response.read()


async def test_headers_come_before_a_hang_but_not_before_no_headers(client: Client) -> None:
    async with client.post(_messages("script:hang")) as response:
        assert response.status == 200
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(response.content.readany(), 0.05)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.stream("script:no_headers"), 0.05)


async def test_a_stall_comes_after_its_tokens(client: Client) -> None:
    streamed = Streamed()
    async with client.post(_messages("script:stall after:2")) as response:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                async for frame in frames(response):
                    streamed.feed(frame)
    assert streamed.text == tokens(2)


@pytest.mark.parametrize(
    ("script", "pattern"), [("keepalive", rb"(: keep-alive\n\n){3,}"), ("drip", rb'data: {"id":"x{3,}')]
)
async def test_a_stream_may_move_without_saying_anything(client: Client, script: str, pattern: bytes) -> None:
    received = b""
    async with client.post(_messages(f"script:{script} after:0 every:0.005")) as response:
        while not re.search(pattern, received):
            received += await response.content.readany()
    assert len(received.split(b"data: ")) == (2 if script == "keepalive" else 3)


async def test_a_connection_may_be_reset_in_the_stream(client: Client, key: str) -> None:
    streamed = Streamed()
    with pytest.raises(aiohttp.ClientPayloadError, match="ConnectionResetError"):
        async with client.post(_messages(f"script:reset after:4 key:{key}")) as response:
            async for frame in frames(response):
                streamed.feed(frame)
    assert streamed.text == tokens(4) == (await client.call(key))["sent_text"]
    assert (await client.call(key))["outcome"] == "failed"


async def test_a_body_may_be_cut_off(client: Client, key: str) -> None:
    with pytest.raises(aiohttp.ClientPayloadError):
        await client.stream(f"script:eof key:{key}")
    assert (await client.call(key))["outcome"] == "failed"


async def test_a_frame_may_be_broken_in_the_middle_of_good_ones(client: Client, key: str) -> None:
    good = Streamed()
    with pytest.raises(json.JSONDecodeError):
        await client.stream("script:malformed")
    async with client.post(_messages(f"script:malformed after:2 tokens:6 key:{key}")) as response:
        async for frame in frames(response):
            if not frame.endswith("tok"):
                good.feed(frame)
    assert good.done
    assert good.text == tokens(2) + tokens(6, first=3) == (await client.call(key))["sent_text"]


async def test_an_error_may_come_as_a_frame(client: Client) -> None:
    async with client.post(_messages("script:error")) as response:
        *_, last = [frame async for frame in frames(response)]
    assert json.loads(last)["error"]["type"] == "server_error"


async def test_a_stream_may_end_without_saying_so(client: Client) -> None:
    streamed = await client.stream("script:no_finish after:2")
    assert (streamed.text, streamed.finish_reason, streamed.done) == (tokens(2), None, False)


async def test_headers_may_be_late(client: Client, key: str) -> None:
    await client.stream(f"delay:0.1 tokens:1 key:{key}")
    call = await client.call(key)
    assert float(str(call["first_chunk_at"])) - float(str(call["opened_at"])) >= 0.1


async def test_every_script_serves_every_kind_of_request(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    async def ask(script: str, **fields: object) -> None:
        try:
            async with asyncio.timeout(2), client.post(_messages(f"script:{script} rate:0"), **fields) as response:
                await response.read()
        except (aiohttp.ClientError, TimeoutError):
            pass

    await asyncio.gather(
        *(ask(s, stream=b, **t) for s in SCRIPTS for b in (True, False) for t in ({}, {"tools": TOOLS}))
    )

    calls = (await client.stats())["calls"]
    assert len(calls) == len(SCRIPTS) * 4
    assert "refused" not in {call["script"] for call in calls}
    assert not caplog.records


# Strictness

USER = {"role": "user", "content": "tokens:1"}
ANSWER = {"role": "assistant", "content": "yes"}
SYSTEM = {"role": "system", "content": "Be brief."}


def asking(*ids: str, name: str = "calculate", arguments: str = "{}") -> JsonObject:
    calls = [{"id": id, "type": "function", "function": {"name": name, "arguments": arguments}} for id in ids]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def told(id: str, **fields: str) -> JsonObject:
    return {"role": "tool", "tool_call_id": id, "content": "", **fields}


@pytest.mark.parametrize(
    "history",
    [
        [USER],
        [SYSTEM, USER, ANSWER, USER],
        [USER, asking("a", "b"), told("b"), told("a", name="calculate")],
        [USER, asking("a"), told("a"), asking("a"), told("a"), ANSWER, USER],
        [USER, asking("a"), told("a"), USER],
        [{"role": "user", "content": [{"type": "text", "text": "tokens:1"}]}],
    ],
)
async def test_a_valid_history_is_taken(client: Client, history: list[JsonObject]) -> None:
    assert (await client.stream(history)).text == tokens(1)


@pytest.mark.parametrize(
    ("history", "complaint"),
    [
        ([], "too short"),
        ([SYSTEM], "last message"),
        ([USER, USER], "two user messages"),
        ([USER, ANSWER, ANSWER, USER], "two assistant messages"),
        ([ANSWER, USER], "must be of role user"),
        ([SYSTEM, ANSWER, USER], "must be of role user"),
        ([USER, SYSTEM], "only the first message"),
        ([SYSTEM, SYSTEM, USER], "only the first message"),
        ([USER, ANSWER], "last message"),
        ([{"role": "wizard", "content": "x"}], "unknown role"),
        (["hello"], "not an object"),
        ([{"role": "user", "content": " \n"}], "non-empty"),
        ([{"role": "user", "content": []}], "non-empty"),
        ([{"role": "system", "content": ""}, USER], "non-empty"),
        ([USER, {"role": "assistant", "content": ""}, USER], "non-empty"),
        ([USER, {"role": "assistant", "content": "x", "tool_calls": []}, USER], "must not be empty"),
        ([USER, asking("a")], "Without response: a"),
        ([USER, asking("a"), USER], "Without response: a"),
        ([USER, asking("a", "b"), told("a"), ANSWER, USER], "Without response: b"),
        ([USER, told("a")], "preceding message"),
        ([USER, asking("a"), told("b")], "preceding message"),
        ([USER, asking("a"), told("a"), told("a")], "preceding message"),
        ([USER, asking("a"), told("a"), ANSWER, told("a")], "preceding message"),
        ([USER, asking("a", "a"), told("a")], "not unique"),
        ([USER, asking("a"), told("a", name="current_time")], "its call named"),
        ([USER, asking("a", arguments='{"x": '), told("a")], "not a JSON object"),
        ([USER, asking("a", arguments="3"), told("a")], "not a JSON object"),
        ([USER, asking("a", name="no such tool"), told("a")], "must match"),
        ([USER, {"role": "assistant", "tool_calls": [{"id": "a"}]}, told("a")], "a tool call needs"),
        ([USER, asking("a"), {"role": "tool", "tool_call_id": "a", "content": None}], "string or an array"),
    ],
)
async def test_an_invalid_history_is_refused(client: Client, history: object, complaint: str) -> None:
    async with client.post(history) as response:
        error = (await response.json())["error"]
    assert response.status == 400
    assert complaint in error["message"]
    assert error["type"] == "invalid_request_error"
    (call,) = (await client.stats())["calls"]
    assert (call["script"], call["outcome"]) == ("refused", "failed")


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"model": ""}, "model"),
        ({"stream": False, "stream_options": {"include_usage": True}}, "stream_options"),
        ({"tools": []}, "tools"),
        ({"tools": TOOLS + TOOLS}, "unique"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools"),
        ({"messages": _messages("script:nonsense")}, "no script 'nonsense'"),
        ({"messages": _messages("tokens:many")}, "tokens:many"),
        ({"messages": _messages("rate:nan")}, "rate:nan"),
        ({"messages": _messages("call:calculate={oops")}, "not JSON"),
    ],
)
async def test_an_invalid_request_is_refused(client: Client, fields: JsonObject, complaint: str) -> None:
    async with client.post(**{"messages": [USER]} | fields) as response:
        assert response.status == 400
        assert complaint in (await response.json())["error"]["message"]


async def test_a_body_that_is_no_json_is_refused(client: Client) -> None:
    for body in (b"{", b"[]", b"\xff", b"null"):
        async with client.http.post(f"{client.base}/v1/chat/completions", data=body) as response:
            assert response.status == 400
    assert (await client.stats())["total"] == 4


# Record


async def test_stats_tell_who_was_open_at_the_same_time(client: Client, key: str) -> None:
    other = next(keys)
    await asyncio.gather(
        *(client.stream(f"tokens:5 rate:50 key:{name}") for name in (key, key, key, other)), return_exceptions=False
    )
    everything = await client.stats("?messages=0")
    assert (everything["open"], everything["total"]) == (0, 4)
    assert everything["max_open_by_key"] == {key: 3, other: 1}
    assert not {"messages", "sent_text", "sent_reasoning", "tools"} & everything["calls"][0].keys()
    mine = await client.stats(f"?key={key}")
    assert (mine["total"], len(mine["calls"]), mine["max_open_by_key"]) == (3, 3, {key: 3})


async def test_the_record_can_be_forgotten_under_open_calls(client: Client, key: str) -> None:
    call = asyncio.create_task(client.stream(f"tokens:3 rate:20 key:{key}"))
    while not (await client.stats())["open"]:
        await asyncio.sleep(0.001)
    async with client.http.post(f"{client.base}/stats/reset") as response:
        assert response.status == 200
    assert (await call).done
    assert await client.stats() == {"calls": [], "open": 0, "total": 0, "max_open_by_key": {}}


async def test_it_names_its_model_and_is_alive(client: Client) -> None:
    async with client.http.get(f"{client.base}/v1/models") as response:
        assert (await response.json())["data"][0]["id"] == "demo"
    async with client.http.get(f"{client.base}/healthz") as response:
        assert response.status == 200


# Process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_process_says_when_it_is_ready_and_ends_at_once_under_open_streams(number: signal.Signals) -> None:
    command = (sys.executable, "-m", "agents.demo", "--port", "0")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    assert process.stdout is not None
    ready = (await process.stdout.readline()).decode()
    assert re.fullmatch(r"ready http://127\.0\.0\.1:\d+\n", ready)
    async with aiohttp.ClientSession() as http:
        client = Client(http, ready.split()[1])
        prompts = ["script:hang", "script:no_headers", "script:stall", "tokens:1000 rate:10"]
        calls = [asyncio.create_task(client.stream(prompt)) for prompt in prompts]
        while (await client.stats())["open"] != len(prompts):
            await asyncio.sleep(0.01)

        before = time.monotonic()
        process.send_signal(number)
        output, errors = await asyncio.wait_for(process.communicate(), 5)

        in_time(time.monotonic() - before, 1)
        assert (process.returncode, output, errors) == (0, b"", b"")
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(end, aiohttp.ClientError) for end in ends)
