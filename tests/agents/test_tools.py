"""Tools: their schema, their bounds, and arithmetic that is exact."""

import asyncio
import contextvars
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Annotated
from uuid import UUID

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from agents.tools import (
    BUILT_IN,
    Repeat,
    Tool,
    ToolContext,
    ToolError,
    ToolFailed,
    ToolInputError,
    ToolTimeout,
    calculate,
    current_time,
    stuck_threads,
    tool,
)
from agents.tools.output import MAX_BYTES
from tests.timing import in_time

CONTEXT = ToolContext(user_id=7, chat_id=UUID(int=1), run_id=UUID(int=2), key="2:call_1")


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What stuck tools wait for; opened at the end, so that no thread outlives its test."""
    event = threading.Event()
    yield event
    event.set()
    while stuck_threads():
        time.sleep(0.001)


def returning(value: object) -> Tool:
    @tool()
    def answer() -> object:
        """Answer."""
        return value

    return answer


def doing(function: Callable[[], object]) -> Tool:
    @tool()
    def act() -> object:
        """Act."""
        return function()

    return act


# Schema


def test_the_schema_is_read_off_the_signature() -> None:
    @tool(repeat=Repeat.KEYED, timeout=3)
    def send_mail(context: ToolContext, to: Annotated[str, Field(description="Whom")], copies: int = 1) -> str:
        """Send a mail
        to somebody.

        This paragraph is for programmers.
        """
        return to * copies

    assert (send_mail.name, send_mail.description) == ("send_mail", "Send a mail to somebody.")
    assert (send_mail.repeat, send_mail.timeout) == (Repeat.KEYED, 3)
    assert send_mail.parameters == {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "to": {"type": "string", "description": "Whom"},
            "copies": {"type": "integer", "default": 1},
        },
        "required": ["to"],
    }


def test_a_tool_without_parameters_has_an_object_schema() -> None:
    assert returning(1).parameters == {"type": "object", "additionalProperties": False, "properties": {}}


def test_a_tool_is_not_repeated_unless_it_says_so() -> None:
    assert returning(1).repeat is Repeat.ONCE


def test_parameters_may_be_named_like_anything() -> None:
    @tool()
    def odd(json: int, model_config: int, _copy: int) -> int:
        """Add."""
        return json + model_config + _copy

    assert asyncio.run(odd.call({"json": 1, "model_config": 2, "_copy": 3}, CONTEXT)) == 6


def test_functions_that_say_too_little_are_refused_at_import() -> None:
    def silent(x: int) -> int:
        return x

    def untyped(x) -> int:  # type: ignore[no-untyped-def]
        """Untyped."""
        return int(x)

    def greedy(*xs: int) -> int:
        """Greedy."""
        return sum(xs)

    for function in (silent, untyped, greedy):
        with pytest.raises(TypeError, match=function.__name__):
            tool()(function)


# Calling


async def test_sync_and_async_functions_get_context_arguments_and_context_variables() -> None:
    variable = contextvars.ContextVar("variable", default="unset")

    @tool()
    def sync(context: ToolContext, word: str) -> list[object]:
        """Sync."""
        return [context.key, word, variable.get(), threading.current_thread().daemon]

    @tool()
    async def native(context: ToolContext, word: str) -> list[object]:
        """Native."""
        return [context.key, word, variable.get()]

    variable.set("set")
    assert await sync.call({"word": "a"}, CONTEXT) == ["2:call_1", "a", "set", True]
    assert await native.call({"word": "a"}, CONTEXT) == ["2:call_1", "a", "set"]


async def test_structured_arguments_arrive_as_models() -> None:
    class Point(BaseModel):
        x: int
        y: int = 5

    @tool()
    def add(points: list[Annotated[Point, Field()]]) -> int:
        """Add."""
        return sum(point.x + point.y for point in points)

    with pytest.raises(ToolInputError, match=r"points\.0\.x"):
        await add.call({"points": [{"x": "much"}]}, CONTEXT)
    assert await add.call({"points": [{"x": 1}, {"x": 2, "y": 3}]}, CONTEXT) == 11


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({}, "zone: Field required"),
        ({"zone": 3}, "zone: Input should be a valid string"),
        ({"zone": "UTC", "bogus": 1}, "bogus: Extra inputs"),
        ({str(n): "secret" for n in range(50)}, "and 46 more"),
    ],
)
async def test_wrong_arguments_are_explained_to_the_model(arguments: Mapping[str, object], complaint: str) -> None:
    with pytest.raises(ToolInputError, match=complaint) as caught:
        await current_time.call(arguments, CONTEXT)
    assert "secret" not in str(caught.value)
    assert len(str(caught.value)) < 1500


async def test_an_exception_becomes_a_short_text_without_secrets() -> None:
    def fail() -> None:
        raise LookupError(
            "GET https://bob:hunter2@host/?api_key=topsecret Authorization: Bearer sk-abc\0 " + "x" * 5000
        )

    with pytest.raises(ToolFailed) as caught:
        await doing(fail).call({}, CONTEXT)

    text = str(caught.value)
    assert text.startswith("LookupError: GET https://bob:***@host/?api_key=***")
    assert len(text) <= 520
    assert not [secret for secret in ("hunter2", "topsecret", "sk-abc", "Traceback", "\0") if secret in text]


@pytest.mark.parametrize("raised", [SystemExit(3), StopIteration(1), KeyboardInterrupt(), asyncio.CancelledError()])
async def test_no_exception_of_a_tool_harms_the_worker(raised: BaseException) -> None:
    def fail() -> None:
        raise raised

    @tool()
    async def native() -> None:
        """Native."""
        raise raised

    for broken in (doing(fail), native):
        with pytest.raises(ToolFailed):
            await broken.call({}, CONTEXT)


async def test_a_tool_may_say_itself_what_is_wrong() -> None:
    def fail() -> None:
        raise ToolError("there is no such customer" + "\0" * 9999)

    with pytest.raises(ToolError, match="^there is no such customer") as caught:
        await doing(fail).call({}, CONTEXT)
    assert type(caught.value) is ToolError
    assert len(str(caught.value)) == 2000
    assert "\0" not in str(caught.value)


# Time


async def test_a_stuck_sync_tool_times_out_and_its_thread_is_counted_until_it_ends(gate: threading.Event) -> None:
    @tool(timeout=0.05)
    def stick() -> None:
        """Stick."""
        gate.wait()

    before = time.monotonic()
    with pytest.raises(ToolTimeout, match=r"stick did not answer within 0\.05 s"):
        await stick.call({}, CONTEXT)
    in_time(time.monotonic() - before, 0.5)
    assert stuck_threads() == 1

    gate.set()
    while stuck_threads():
        await asyncio.sleep(0.001)


async def test_cancelling_a_stuck_sync_tool_returns_at_once(gate: threading.Event) -> None:
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stick() -> None:
        loop.call_soon_threadsafe(started.set)
        gate.wait()

    call = asyncio.create_task(doing(stick).call({}, CONTEXT))
    await started.wait()
    before = time.monotonic()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    in_time(time.monotonic() - before, 0.5)
    assert stuck_threads() == 1


async def test_an_async_tool_that_swallows_its_cancellation_is_left_behind() -> None:
    finish = asyncio.Event()

    @tool(timeout=0.05)
    async def stubborn() -> None:
        """Stubborn."""
        while not finish.is_set():
            try:
                await finish.wait()
            except asyncio.CancelledError:
                continue

    before = time.monotonic()
    with pytest.raises(ToolTimeout):
        await stubborn.call({}, CONTEXT)
    in_time(time.monotonic() - before, 2)
    finish.set()


async def test_an_async_tool_may_clean_up_when_it_is_cancelled() -> None:
    cleaned = []

    @tool(timeout=0.02)
    async def tidy() -> None:
        """Tidy."""
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    with pytest.raises(ToolTimeout):
        await tidy.call({}, CONTEXT)
    assert cleaned


async def test_a_timeout_inside_the_tool_is_its_failure_and_not_ours() -> None:
    def fail() -> None:
        raise TimeoutError("the other side is slow")

    with pytest.raises(ToolFailed, match="TimeoutError: the other side is slow"):
        await doing(fail).call({}, CONTEXT)


async def test_a_stuck_tool_does_not_delay_the_exit_of_the_process() -> None:
    program = """
import asyncio, threading
from uuid import UUID
from agents.tools import ToolContext, ToolTimeout, tool
from tests.timing import in_time

@tool(timeout=0.05)
def stick() -> None:
    "Stick."
    threading.Event().wait()

async def main() -> None:
    try:
        await stick.call({}, ToolContext(None, UUID(int=1), UUID(int=2), ""))
    except ToolTimeout:
        print("timed out")

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    output, _ = await asyncio.wait_for(process.communicate(), timeout=10)
    assert (process.returncode, output) == (0, b"timed out\n")


# Output


@dataclass
class Weather:
    at: datetime
    degrees: Decimal
    where: UUID


async def test_what_has_a_json_form_is_kept_in_it() -> None:
    weather = Weather(datetime(2026, 1, 2, tzinfo=UTC), Decimal("1.5"), UUID(int=5))
    value = {1: (True, None, {2.5}), "nan": [math.nan, math.inf, -math.inf], "weather": weather, "big": 2**70}
    assert await returning(value).call({}, CONTEXT) == {
        "1": [True, None, [2.5]],
        "nan": [None, None, None],
        "weather": {
            "at": "2026-01-02T00:00:00Z",
            "degrees": "1.5",
            "where": "00000000-0000-0000-0000-000000000005",
        },
        "big": str(2**70),
    }


async def test_nul_and_lone_surrogates_are_replaced_everywhere() -> None:
    result = await returning({"a\0": ["\ud800b", "🙂"]}).call({}, CONTEXT)
    assert result == {"a\N{REPLACEMENT CHARACTER}": ["\N{REPLACEMENT CHARACTER}b", "🙂"]}


def endless() -> Iterator[int]:
    while True:
        yield 1


def nested() -> list[object]:
    value: list[object] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "value", [object(), print, b"\xff", endless(), nested()], ids=lambda value: type(value).__name__
)
async def test_what_json_cannot_hold_is_told_to_the_model(value: object) -> None:
    with pytest.raises(ToolFailed, match="cannot be kept"):
        await returning(value).call({}, CONTEXT)


async def test_a_long_text_is_cut_with_a_mark() -> None:
    result = await returning("é" * 5_000_000).call({}, CONTEXT)
    assert isinstance(result, str)
    assert result.endswith("é[truncated]")
    assert MAX_BYTES - 3 <= len(orjson.dumps(result)) <= MAX_BYTES


@pytest.mark.parametrize("text", ["\x01", '"', "\n", "a", "🙂", "\ud800"])
async def test_the_limit_counts_what_is_written(text: str) -> None:
    result = await returning(text * MAX_BYTES).call({}, CONTEXT)
    assert MAX_BYTES - 8 <= len(orjson.dumps(result)) <= MAX_BYTES


async def test_a_text_that_just_fits_is_whole() -> None:
    text = "x" * (MAX_BYTES - 2)
    assert await returning(text).call({}, CONTEXT) == text


def folded() -> object:
    """Few objects that would be 2**40 when written down."""
    value: object = "x"
    for _ in range(40):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    "value", [list(range(1_000_000)), {str(n): n for n in range(500_000)}, ["x" * 100_000] * 100, folded()]
)
async def test_a_long_structure_becomes_a_cut_text_of_its_json(value: object) -> None:
    result = await returning(value).call({}, CONTEXT)
    assert isinstance(result, str)
    assert result[0] in "[{"
    assert result.endswith("[truncated]")
    assert len(orjson.dumps(result)) <= MAX_BYTES


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
)


@settings(deadline=None)  # each example starts a thread and a loop
@given(json_values)
def test_every_output_is_storable(value: object) -> None:
    result = asyncio.run(returning(value).call({}, CONTEXT))
    assert "\\u0000" not in orjson.dumps(result).decode()


# The built-in ones


def test_the_built_in_tools_may_be_repeated() -> None:
    assert {tool.name: tool.repeat for tool in BUILT_IN} == {
        "current_time": Repeat.SAFE,
        "calculate": Repeat.SAFE,
    }


async def test_the_clock_knows_zones() -> None:
    result = await current_time.call({"zone": "Asia/Tokyo"}, CONTEXT)
    assert isinstance(result, dict)
    assert str(result["time"]).endswith("+09:00")


@pytest.mark.parametrize("zone", ["Atlantis", "Europe", "", "../etc/passwd", "/etc/passwd", "a\0b", "x" * 5000])
async def test_an_unknown_zone_is_explained(zone: str) -> None:
    with pytest.raises(ToolInputError, match="There is no time zone"):
        await current_time.call({"zone": zone}, CONTEXT)


async def calculated(expression: str) -> object:
    return await calculate.call({"expression": expression}, CONTEXT)


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("2*(3+4)", "14"),
        ("0.1+0.2", "0.3"),
        ("1/3", "1/3 (about 0.333333333333333333333333333333)"),
        ("-7 // 2", "-4"),
        ("-7 % 3", "2"),
        ("2**-3", "0.125"),
        ("-2**2", "-4"),
        ("1e3 + 0x10 + 1_000", "2016"),
        ("-0.05", "-0.05"),
        ("1**(10**9)", "1"),
        ("2**200", str(2**200)),
        ("+".join(["1"] * 250), "250"),
    ],
)
async def test_arithmetic_is_exact(expression: str, result: str) -> None:
    assert await calculated(expression) == result


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("9**9**9", "too large"),
        ("(9**999)**999", "too large"),
        ("*".join(["9**3000"] * 5), "too large"),
        ("1e999999999", "too large"),
        ("1e-999999999", "too large"),
        ("-" * 400 + "1", "nested deeper"),
        ("1+(" * 60 + "1" + ")" * 60, "nested deeper"),
        ("(" * 240 + "1" + ")" * 240, "not an arithmetic expression"),
        ("1/0", "divides by zero"),
        ("0**-1", "divides by zero"),
        ("1 % 0", "divides by zero"),
        ("2**0.5", "whole number"),
        ("2^3", r"\*\* for powers"),
        ("1 << 9999999999", "Only"),
        ("__import__('os')", "Only numbers"),
        ("x", "Only numbers"),
        ("'a'*9", "not a number"),
        ("True", "not a number"),
        ("1j", "not a number"),
        ("", "not an arithmetic expression"),
        ("1\0", "not an arithmetic expression"),
        ("1" * 501, "at most 500"),
    ],
)
async def test_everything_else_is_refused_quickly(expression: str, complaint: str) -> None:
    before = time.monotonic()
    with pytest.raises(ToolInputError, match=complaint):
        await calculated(expression)
    in_time(time.monotonic() - before, 0.5)


expressions = st.recursive(
    st.integers(0, 10**6).map(str) | st.decimals(0, 1000, places=3).map(str),
    lambda inner: st.builds(
        lambda left, sign, right: f"({left} {sign} {right})",
        inner,
        st.sampled_from(["+", "-", "*", "/", "//", "%"]),
        inner,
    ),
    max_leaves=8,
)


@settings(deadline=None)  # each example starts a thread and a loop
@given(st.fractions(), st.sampled_from("+-*/"), st.fractions())
def test_calculation_agrees_with_fractions(left: Fraction, sign: str, right: Fraction) -> None:
    expression = f"({left}){sign}({right})"
    if len(expression) > 500 or (sign == "/" and not right):
        return
    expected = {"+": left + right, "-": left - right, "*": left * right, "/": left / (right or 1)}[sign]
    result = asyncio.run(calculated(expression))
    assert isinstance(result, str)
    assert Fraction(result.split(" (about")[0]) == expected


@settings(deadline=None)  # each example starts a thread and a loop
@given(expressions | st.text(max_size=500) | st.text("0123456789.+-*/%()e ", max_size=60))
def test_every_text_is_a_result_or_a_refusal(expression: str) -> None:
    try:
        assert isinstance(asyncio.run(calculated(expression)), str)
    except ToolInputError:
        pass
