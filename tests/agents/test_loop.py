"""The agent's loop with a client that says what a test wants: what it yields, in which order, and what stops it."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from agents import chunks
from agents.answer import MOST_CALLS
from agents.budget import Budget, Limits, Reached, counted
from agents.compaction import LEFT_OUT, Summarised, room_to_ask, window_of
from agents.demo.history import check_history
from agents.estimate import estimated_usage
from agents.history import Exchange, Past
from agents.llm import CallPiece, Delta, Echo, Finished, ModelError, ModelRequest, ModelSettings, Said, Usage
from agents.loop import NO_TOOLS_LEFT, UNKNOWN_OUTCOME, Event, Turn, run_agent
from agents.steps import Call, ModelStep, Outcome, RecordedStep
from agents.tools import Repeat, ToolContext, tool

STOP = Finished("stop", Usage(1, 1), "demo")
CALLS = Finished("tool_calls", Usage(1, 1), "demo")


@tool(repeat=Repeat.SAFE)
async def double(number: int) -> int:
    """Doubles a number."""
    return number * 2


@tool(repeat=Repeat.ONCE)
async def write(text: str) -> str:
    """Writes something down."""
    return f"wrote {text}"


class Client:
    """Answers each call with the next script; remembers what it was asked and whether it was closed."""

    def __init__(self, *scripts: Sequence[Delta | Exception | float]) -> None:
        self._scripts: Iterator[Sequence[Delta | Exception | float]] = iter(scripts)
        self.requests: list[ModelRequest] = []
        self.open = 0

    async def __call__(self, request: ModelRequest, /) -> AsyncGenerator[Delta, None]:
        self.requests.append(request)
        self.open += 1
        try:
            for item in next(self._scripts):
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, float):
                    await asyncio.sleep(item)
                else:
                    yield item
        finally:
            self.open -= 1


def turn(**changes: Any) -> Turn:
    def context(call_id: str) -> ToolContext:
        return ToolContext(None, uuid4(), uuid4(), call_id)

    defaults: dict[str, Any] = {
        "model": "demo",
        "past": Past("be good", [Exchange([{"role": "user", "content": "hello"}])]),
        "tools": {"double": double, "write": write},
        "context": context,
        "call_prefix": "call",
        "budget": Budget(Limits(steps=5)),
        "stall": 5.0,
        "retry_pauses": (0.01, 0.01),
    }
    return Turn(**(defaults | changes))


async def events(client: Client, journal: Sequence[RecordedStep] = (), **changes: Any) -> list[Event]:
    return [event async for event in run_agent(client, turn(**changes), journal)]


def kinds(found: Sequence[Event]) -> list[str]:
    return [event["type"] if isinstance(event, dict) else type(event).__name__ for event in found]


def call(arguments: str, name: str = "double", index: int = 0) -> CallPiece:
    return CallPiece(index, name, arguments)


async def test_text_is_started_fed_and_ended_inside_its_step() -> None:
    found = await events(Client([Said("reasoning", "hm"), Said("text", "hel"), Said("text", "lo"), STOP]))
    assert kinds(found) == [
        "start-step", "reasoning-start", "reasoning-delta", "reasoning-end",
        "text-start", "text-delta", "text-delta", "text-end", "ModelStep", "finish-step",
    ]  # fmt: skip


async def test_a_step_is_given_out_before_any_of_its_tools_starts() -> None:
    started: list[int] = []

    @tool(repeat=Repeat.ONCE)
    async def note(number: int) -> None:
        """Notes that it ran."""
        started.append(number)

    client = Client([call('{"number": 1}', "note"), CALLS], [Said("text", "ok"), STOP])
    agent = run_agent(client, turn(tools={"note": note}), [])
    async with aclosing(agent):
        async for event in agent:
            if isinstance(event, ModelStep):
                await asyncio.sleep(0.02)  # the time it takes to record it
                assert started == []
                break
        async for event in agent:
            if isinstance(event, Outcome):
                break
    assert started == [1]


async def test_what_a_model_thought_before_a_call_it_reads_again_within_the_turn_and_no_other_model_does() -> None:
    thought = Finished("tool_calls", Usage(1, 1), "demo", Echo({"reasoning_content": "hm"}, {0: {"signature": "s"}}))
    client = Client(
        [Said("reasoning", "hm"), call('{"number": 4}'), thought], [BUSY], [BUSY], [BUSY], [Said("text", "8"), STOP]
    )
    await events(client, model="first", fallbacks=["second"])
    again, elsewhere = client.requests[1].messages[-2], client.requests[-1].messages[-2]
    assert (client.requests[1].model, again["reasoning_content"]) == ("first", "hm")
    assert (again["tool_calls"][0]["signature"], again["tool_calls"][0]["id"]) == ("s", "call_0_0")
    assert client.requests[-1].model == "second"
    assert set(elsewhere) == {"role", "content", "tool_calls"}
    assert set(elsewhere["tool_calls"][0]) == {"id", "type", "function"}


@pytest.mark.parametrize("thought", ["h\0m", "\ud800", "x" * 300_000])
async def test_a_thought_that_cannot_be_stored_to_the_letter_is_not_kept(thought: str) -> None:
    end = Finished("tool_calls", Usage(1, 1), "demo", Echo({"reasoning_content": thought}))
    found = await events(Client([call('{"number": 4}'), end], [Said("text", "8"), STOP]))
    assert [event.echo for event in found if isinstance(event, ModelStep)] == [None, None]


async def test_an_outcome_is_given_out_as_its_call_ends() -> None:
    client = Client([call('{"number": 4}'), CALLS], [Said("text", "8"), STOP])
    found = await events(client)
    position = next(i for i, event in enumerate(found) if isinstance(event, Outcome))
    assert found[position] == Outcome("call_0_0", output=8)
    assert found[position + 1] == chunks.finish_step()
    # and the model gets it, under the id that we gave
    assert client.requests[1].messages[-1] == {"role": "tool", "tool_call_id": "call_0_0", "content": "8"}


@pytest.mark.parametrize(
    ("piece", "told"),
    [
        (call('{"number": '), "not valid JSON"),
        (call("[1]"), "not a JSON object"),
        (call('{"number": "x"}'), "do not fit"),
        (call("{}", "no_such_tool"), "no tool named no_such_tool"),
        (call('{"number":' + "1" * 300_000 + "}"), "longer than"),
    ],
)
async def test_a_call_that_cannot_be_made_is_told_to_the_model(piece: CallPiece, told: str) -> None:
    client = Client([piece, CALLS], [Said("text", "sorry"), STOP])
    found = await events(client)
    (outcome,) = [event for event in found if isinstance(event, Outcome)]
    assert outcome.error is not None
    assert told in outcome.error
    assert told in client.requests[1].messages[-1]["content"]


async def test_two_hundred_calls_in_one_step_are_capped() -> None:
    client = Client([*(call('{"number": 1}', index=n) for n in range(200)), CALLS], [Said("text", "ok"), STOP])
    found = await events(client)
    assert len([event for event in found if isinstance(event, Outcome)]) == MOST_CALLS


async def test_the_last_step_is_asked_without_tools_and_cannot_call_any() -> None:
    # given a model that calls tools for ever, offered or not
    client = Client(*([call('{"number": 1}'), CALLS] for _ in range(3)))
    found = await events(client, budget=Budget(Limits(steps=3)))
    assert [bool(request.tools) for request in client.requests] == [True, True, False]
    steps = [event for event in found if isinstance(event, ModelStep)]
    assert [len(step.calls) for step in steps] == [1, 1, 0]
    assert kinds(found)[-2:] == ["finish-step", "Reached"]


async def test_a_transient_error_is_retried_and_announced_while_nothing_was_shown() -> None:
    busy = ModelError("rate_limit", "busy", transient=True, retry_after=0.02)
    client = Client([busy], [busy], [Said("text", "ok"), STOP])
    found = await events(client)
    notices = [event for event in found if isinstance(event, dict) and event["type"] == "data-run"]
    assert [notice["data"]["retry"]["attempt"] for notice in notices] == [1, 2]
    assert notices[0]["data"]["retry"]["inSeconds"] == 0.02
    assert len(client.requests) == 3


@pytest.mark.parametrize(
    "script",
    [
        [ModelError("bad_request", "no")],
        [Said("text", "half"), ModelError("connection", "reset", transient=True)],
        [call('{"nu'), ModelError("connection", "reset", transient=True)],
    ],
    ids=["permanent", "after text", "after a tool call began"],
)
async def test_nothing_else_is_retried(script: list[Delta | Exception | float]) -> None:
    client = Client(script, [Said("text", "again"), STOP])
    with pytest.raises(ModelError):
        await events(client)
    assert len(client.requests) == 1


async def test_retries_end() -> None:
    busy = ModelError("overloaded", "busy", transient=True)
    client = Client(*([busy] for _ in range(9)))
    with pytest.raises(ModelError):
        await events(client)
    assert len(client.requests) == 3


async def test_a_silent_model_is_given_up_after_the_stall_time() -> None:
    client = Client([Said("text", "one"), 30.0, STOP])
    with pytest.raises(ModelError, match="silent") as raised:
        await events(client, stall=0.1)
    assert raised.value.code == "stall"
    assert client.open == 0


@pytest.mark.parametrize(
    "script",
    [[30.0], [Said("text", "one"), 30.0]],
    ids=["before anything came", "in mid-answer"],
)
async def test_a_cancel_closes_the_model_call_at_once(script: list[Delta | Exception | float]) -> None:
    client = Client(script)
    task = asyncio.create_task(events(client))
    await until(lambda: client.open == 1)
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert client.open == 0


async def test_a_cancel_reaches_every_tool_in_flight() -> None:
    running: set[int] = set()

    @tool(repeat=Repeat.ONCE)
    async def wait(number: int) -> None:
        """Waits."""
        running.add(number)
        try:
            await asyncio.sleep(30)
        finally:
            running.discard(number)

    client = Client([call('{"number": 1}', "wait", 0), call('{"number": 2}', "wait", 1), CALLS])
    task = asyncio.create_task(events(client, tools={"wait": wait}))
    await until(lambda: len(running) == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert running == set()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(3):
        while not condition():
            await asyncio.sleep(0.005)


def recorded(*calls: Call, **outcomes: Outcome) -> RecordedStep:
    parts = [{"type": "step-start"}]
    parts += [
        {"type": f"tool-{one.name}", "toolCallId": one.id, "state": "input-available", "input": one.input}
        for one in calls
    ]
    return RecordedStep(parts, calls, outcomes)


async def test_a_later_attempt_goes_on_behind_the_last_recorded_step() -> None:
    done = Call("c1", "double", {"number": 1}, "safe")
    client = Client([Said("text", "two"), STOP])
    found = await events(client, [recorded(done, c1=Outcome("c1", output=2))])
    # nothing is run again, the step is finished, the next one is asked
    assert kinds(found)[:3] == ["finish-step", "start-step", "text-start"]
    assert client.requests[0].messages[-1]["content"] == "2"
    assert [event.index for event in found if isinstance(event, ModelStep)] == [1]


async def test_a_later_attempt_repeats_what_is_safe_and_tells_of_what_is_not() -> None:
    safe, once = Call("c1", "double", {"number": 3}, "safe"), Call("c2", "write", {"text": "x"}, "once")
    client = Client([Said("text", "ok"), STOP])
    found = await events(client, [recorded(safe, once)])
    outcomes = {event.call_id: event for event in found if isinstance(event, Outcome)}
    assert outcomes == {"c1": Outcome("c1", output=6), "c2": Outcome("c2", error=UNKNOWN_OUTCOME)}


async def test_a_turn_whose_answer_is_recorded_is_over() -> None:
    client = Client()
    said = RecordedStep([{"type": "step-start"}, {"type": "text", "text": "all", "state": "done"}], ())
    assert await events(client, [said]) == []
    assert client.requests == []


async def test_an_answer_without_end_is_given_up_in_the_end() -> None:
    mib = Said("text", "x" * 1024 * 1024)
    client = Client([*[mib] * 8, STOP], [*[mib] * 9, STOP])
    assert await events(client)
    with pytest.raises(ModelError, match="did not end"):
        await events(client)
    assert client.open == 0


TWICE = [call('{"number": 1}'), Finished("tool_calls", Usage(60, 40, 0, Decimal("0.01")), "demo")]
ANSWER = [Said("text", "two"), STOP]


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        (Limits(steps=3), "its limit of 3 steps"),
        (Limits(tokens=200), "its limit of 200 tokens"),
        (Limits(tokens=1), "its limit of 1 token."),
        (Limits(cost_usd=Decimal("0.02000000")), "its limit of $0.02."),
        (Limits(steps=9, tokens=9000, cost_usd=Decimal(1)), None),
    ],
)
async def test_a_limit_that_is_reached_leaves_one_step_without_tools(limits: Limits, text: str | None) -> None:
    client = Client(TWICE, *([ANSWER] if limits.tokens == 1 else [TWICE, ANSWER]))
    found = await events(client, budget=Budget(limits))
    assert [bool(request.tools) for request in client.requests] == [True] * (len(client.requests) - 1) + [text is None]
    assert (NO_TOOLS_LEFT in client.requests[-1].messages[0]["content"]) == (text is not None)
    reached = [event for event in found if isinstance(event, Reached)]
    if text is None:
        assert reached == []
    else:
        assert reached == [found[-1]]
        assert text in reached[0].text
        assert (reached[0].answered, reached[0].is_time) == (True, False)


async def test_what_a_run_used_before_its_recorded_steps_counts() -> None:
    client = Client(TWICE, ANSWER)
    found = await events(client, budget=Budget(Limits(tokens=200), tokens_before=100))
    assert isinstance(found[-1], Reached)
    assert len(client.requests) == 2


async def test_a_limit_beyond_the_run_leaves_one_step_or_forbids_the_first() -> None:
    budget = Budget(outside="used up")
    client = Client(ANSWER)
    assert await events(client, budget=budget) == [Reached("used up", answered=False)]
    assert client.requests == []
    # and in mid-run
    done = Call("c1", "double", {"number": 1}, "safe")
    found = await events(client, [recorded(done, c1=Outcome("c1", output=2))], budget=budget)
    assert found[-1] == Reached("used up")
    assert not client.requests[0].tools


@pytest.mark.parametrize(("left", "is_last"), [(1.0, True), (3.0, False)])
async def test_a_step_that_begins_when_the_time_is_nearly_up_is_the_last(left: float, is_last: bool) -> None:
    # given a tenth or a third of ten seconds
    deadline = asyncio.get_running_loop().time() + left
    client = Client([call('{"number": 1}'), CALLS], ANSWER)
    found = await events(client, budget=Budget(Limits(seconds=10.0), deadline=deadline))
    if is_last:
        assert found[-1] == Reached("The run reached its time limit of 10 seconds.", is_time=True, answered=False)
        assert len(client.requests) == 1
    else:
        assert not any(isinstance(event, Reached) for event in found)


async def test_a_last_step_in_which_the_model_says_nothing_is_no_answer() -> None:
    client = Client(TWICE, [call('{"number": 1}'), CALLS])
    found = await events(client, budget=Budget(Limits(steps=2)))
    assert isinstance(found[-1], Reached)
    assert not found[-1].answered


async def test_who_has_no_tools_misses_none_in_the_only_step() -> None:
    limits = Budget(Limits(steps=1))
    assert not any(isinstance(event, Reached) for event in await events(Client(ANSWER), budget=limits, tools={}))
    assert isinstance((await events(Client(ANSWER), budget=limits))[-1], Reached)


async def test_a_recorded_answer_is_known_to_be_the_last_step_s() -> None:
    asked = recorded(Call("c1", "double", {"number": 1}, "safe"), c1=Outcome("c1", output=2))
    said = RecordedStep([{"type": "step-start"}, {"type": "text", "text": "all", "state": "done"}], ())
    assert await events(Client(), [asked, said], budget=Budget(Limits(steps=2))) == [
        Reached("The run reached its limit of 2 steps.")
    ]
    assert await events(Client(), [asked, said], budget=Budget(Limits(steps=3))) == []


async def test_a_usage_nobody_told_is_estimated() -> None:
    silent = Finished("stop", Usage(estimated=True), "demo")
    found = await events(Client([Said("reasoning", "x" * 400), Said("text", "y" * 400), silent]))
    (step,) = [event for event in found if isinstance(event, ModelStep)]
    assert step.usage.estimated
    assert step.usage.input_tokens > 10
    assert step.usage.output_tokens == pytest.approx(200, abs=5)
    # and what a client estimated by itself stays
    told = Finished("stop", Usage(7, 8, estimated=True), "demo")
    found = await events(Client([Said("text", "y"), told]))
    assert [event.usage for event in found if isinstance(event, ModelStep)] == [told.usage]


async def test_the_model_is_asked_as_its_settings_say() -> None:
    settings = ModelSettings(temperature=0.0, seed=7)
    client = Client(ANSWER)
    await events(client, settings=settings)
    assert client.requests[0].settings == settings
    assert settings.given == {"temperature": 0.0, "seed": 7}


def test_of_two_limits_the_tighter_counts() -> None:
    one = Limits(steps=5, tokens=None, cost_usd=Decimal("0.5"), seconds=10.0, stall=None)
    other = Limits(steps=7, tokens=100, cost_usd=Decimal("0.4"), seconds=None, stall=None)
    tight = Limits(steps=5, tokens=100, cost_usd=Decimal("0.4"), seconds=10.0, stall=None)
    assert one.tightened(other) == other.tightened(one) == tight


@pytest.mark.parametrize(
    ("number", "words"),
    [(1, "1 step"), (1.0, "1 step"), (2000, "2,000 steps"), (3600.0, "3,600 steps"), (0.5, "0.5 steps")],
)
def test_limits_are_told_in_words(number: float, words: str) -> None:
    assert counted(number, "step") == words


async def test_a_recorded_answer_that_was_the_first_step_was_under_no_limit_beyond_the_run() -> None:
    said = RecordedStep([{"type": "step-start"}, {"type": "text", "text": "all", "state": "done"}], ())
    assert await events(Client(), [said], budget=Budget(outside="used up since")) == []


def test_an_estimate_takes_whatever_is_stored() -> None:
    asked = [{"role": "user", "content": "ä" * 100}, {"role": "tool", "content": "\ud800"}]
    said = [{"type": "step-start"}, {"type": "tool-x", "input": {"n": 10**40}}, {"type": "text", "text": "a" * 40}]
    usage = estimated_usage("openai/gpt-4.1-mini", asked, said)
    assert usage.estimated
    assert usage.input_tokens == pytest.approx(70, abs=10)
    assert usage.output_tokens == pytest.approx(25, abs=5)
    assert usage.cost_usd > 0


BUSY = ModelError("overloaded", "busy", transient=True)


async def test_a_fallback_is_asked_once_the_first_model_is_unavailable_after_all_retries() -> None:
    client = Client([BUSY], [BUSY], [BUSY], [call('{"number": 1}'), CALLS], [Said("text", "ok"), STOP])
    found = await events(client, model="first", fallbacks=["second", "third"])
    # and it stays, for the next step
    assert [request.model for request in client.requests] == ["first"] * 3 + ["second"] * 2
    retries = [event["data"]["retry"] for event in found if isinstance(event, dict) and event["type"] == "data-run"]
    assert [(retry["attempt"], retry["reason"]) for retry in retries] == [(n, "overloaded") for n in (1, 2, 3)]
    assert retries[-1] == {"attempt": 3, "inSeconds": 0.0, "reason": "overloaded"}


@pytest.mark.parametrize("code", ["authentication", "permission", "not_found"])
async def test_a_model_that_nobody_may_ask_is_not_asked_twice(code: str) -> None:
    client = Client([ModelError(code, "no")], [Said("text", "ok"), STOP])
    await events(client, model="first", fallbacks=["second"])
    assert [request.model for request in client.requests] == ["first", "second"]


@pytest.mark.parametrize(
    "script",
    [[ModelError("bad_request", "no")], [ModelError("content_filter", "no")], [Said("text", "half"), BUSY]],
    ids=["what it was asked", "what it would say", "something was shown"],
)
async def test_no_fallback_mends_what_is_not_the_model(script: list[Delta | Exception | float]) -> None:
    client = Client(script, [Said("text", "ok"), STOP])
    with pytest.raises(ModelError):
        await events(client, fallbacks=["second"])
    assert len(client.requests) == 1


async def test_when_no_model_is_left_the_last_one_says_why() -> None:
    client = Client([BUSY], [ModelError("not_found", "gone")])
    with pytest.raises(ModelError, match="gone"):
        await events(client, fallbacks=["second"], retry_pauses=())


SUMMARY = [Said("text", "They talked."), STOP]
OVERFLOW = ModelError("context_overflow", "too long")
LONG = Past("be good", [Exchange([{"role": "user", "content": f"question {n}"},
                                  {"role": "assistant", "content": f"answer {n} " * 200}], n) for n in range(9)]
            + [Exchange([{"role": "user", "content": "last question"}], 9)])  # fmt: skip


def size(request: ModelRequest) -> int:
    return len(str(request.messages))


async def test_a_request_that_overflows_is_made_smaller_once() -> None:
    client = Client([OVERFLOW], SUMMARY, SUMMARY, [Said("text", "ok"), STOP])
    found = await events(client, past=LONG)
    refused, summary, _, answered = client.requests
    assert size(summary) < size(refused) / 1.5  # it is asked of the same model
    assert size(answered) < size(refused) / 1.5
    assert answered.messages[-1] == {"role": "user", "content": "last question"}
    assert "They talked." in answered.messages[1]["content"]
    assert summary.tools == ()
    kept = next(event for event in found if isinstance(event, Summarised))
    assert (kept.text, kept.usage) == ("They talked.", STOP.usage)
    assert 0 <= kept.last < 9
    retry = next(event for event in found if isinstance(event, dict) and event["type"] == "data-run")
    assert retry["data"]["retry"] == {"attempt": 1, "inSeconds": 0.0, "reason": "context_overflow"}
    check_history(answered.messages)
    check_history(summary.messages)


async def test_a_request_that_overflows_again_fails() -> None:
    client = Client([OVERFLOW], SUMMARY, SUMMARY, [OVERFLOW])
    with pytest.raises(ModelError, match="too long"):
        await events(client, past=LONG)


async def test_a_request_that_cannot_be_made_smaller_is_not_repeated() -> None:
    client = Client([OVERFLOW])
    with pytest.raises(ModelError, match="too long"):
        await events(client)
    assert len(client.requests) == 1


async def test_what_was_shown_is_not_begun_again_when_it_overflows() -> None:
    client = Client([Said("text", "half"), OVERFLOW], [Said("text", "They talked."), STOP], [STOP])
    with pytest.raises(ModelError, match="too long"):
        await events(client, past=LONG)


@pytest.mark.parametrize(
    "script",
    [[BUSY], [Said("text", " "), STOP], [Said("text", "They"), BUSY], [Said("reasoning", "hm"), 9.0]],
    ids=["it fails", "it says nothing", "it breaks off", "it takes too long"],
)
async def test_without_a_summary_the_oldest_turns_are_left_out(script: list[Delta | Exception | float]) -> None:
    client = Client(script, [Said("text", "ok"), STOP])
    budget = Budget(Limits(steps=5))
    found = await events(client, past=LONG, tools={}, window=600, stall=0.2, budget=budget)
    assert not [event for event in found if isinstance(event, Summarised)]
    asked = client.requests[-1].messages
    assert LEFT_OUT in asked[1]["content"]
    assert asked[-1]["content"] == "last question"
    check_history(asked)
    # what it used all the same is known to whoever settles the run
    assert (budget.unrecorded.tokens > 0) == any(not isinstance(item, Exception) for item in script)


async def test_old_tool_output_is_cut_before_anything_is_summarised() -> None:
    @tool(repeat=Repeat.SAFE)
    async def read(number: int) -> str:
        """Reads much."""
        return f"{number} " * 600

    steps = [[call(f'{{"number": {n}}}', "read"), CALLS] for n in range(3)]
    client = Client(*steps, [Said("text", "ok"), STOP])
    await events(client, tools={"read": read}, window=1500)
    results = [message["content"] for message in client.requests[-1].messages if message["role"] == "tool"]
    assert [len(result) < 400 for result in results] == [True, True, False]
    assert "characters were cut here" in results[0]
    assert results[0].startswith("0 0 0")


def test_a_window_is_the_model_s_own_or_a_safe_one() -> None:
    assert window_of("openai/gpt-4.1-mini") == 1_047_576
    assert window_of("openai/demo") == 128_000
    assert room_to_ask(4000, None) == 3000
    assert room_to_ask(4000, 500) == 3500
    assert room_to_ask(4000, 1_000_000) == 2000
