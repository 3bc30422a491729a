"""The agent's turn as an async generator: model, tool calls, model ..., yielding chunks and finished steps.

It stores nothing. A `Summarised` is yielded before the step that it makes room for, a `ModelStep` before any of its
tools starts, an `Outcome` as its call ends (the consumer shows it once it is stored), and the loop goes on when its
consumer asks for more: what the consumer stored by then is where a later attempt goes on.

Cancelling the task that iterates, or closing the generator, cancels the model call and every tool in flight.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from typing import Any

from agents import chunks
from agents.budget import Budget, Reached, counted
from agents.chunks import Chunk
from agents.compaction import Memory, Summarised, room_to_ask, window_of
from agents.estimate import estimated_usage, most_tokens
from agents.history import Past, journal_messages
from agents.llm import (
    CallPiece,
    Finished,
    ModelClient,
    ModelError,
    ModelRequest,
    ModelSettings,
    Said,
    Usage,
)
from agents.steps import Call, ModelStep, Outcome, RecordedStep
from agents.tools import Repeat, Tool, ToolContext, ToolError
from agents.tools.output import UnstorableError, storable

Event = Chunk | ModelStep | Outcome | Summarised | Reached

# Seconds before each further try of a model call that failed before anything was shown.
RETRY_PAUSES = (0.5, 1.0, 2.0, 4.0)
LONGEST_PAUSE = 60.0

# A step beyond these is told so, call by call; the model may ask for less in its next one.
MOST_CALLS = 64
MOST_CALLS_AT_ONCE = 8
LONGEST_ARGUMENTS = 256 * 1024
# Characters of text and thinking in one step: beyond, a model has lost its way, and nobody reads on.
LONGEST_ANSWER = 8 * 1024 * 1024

NO_TOOLS_LEFT = "This is your last step and no tools are available in it. Answer now, with what you have."
UNKNOWN_OUTCOME = (
    "The worker was lost while this tool ran: whether it took effect is unknown. It was not run again. "
    "Check before you repeat it."
)


@dataclass(frozen=True, slots=True)
class Turn:
    """All that one turn needs. `past` ends with the message to answer; `context` is made for each call's id."""

    model: str
    past: Past
    tools: Mapping[str, Tool]
    context: Callable[[str], ToolContext]
    call_prefix: str
    budget: Budget
    stall: float
    api_base: str | None = None
    settings: ModelSettings = field(default_factory=ModelSettings)
    # Models to call while `model` is unavailable, in this order.
    fallbacks: Sequence[str] = ()
    # How long a request and its answer may be in tokens, whichever model is asked; 0: what that model takes.
    window: int = 0
    retry_pauses: Sequence[float] = RETRY_PAUSES


async def run_agent(client: ModelClient, turn: Turn, journal: Sequence[RecordedStep]) -> AsyncGenerator[Event, None]:
    """Goes on behind `journal`, the steps recorded so far, whose chunks the consumer has shown already.

    Ends when the model has answered; with `Reached` where a limit made it answer, or kept it from being asked at all.
    Raises ModelError; nothing a tool does raises.
    """
    steps = list(journal)
    asking = _Asking(client, turn)
    # Of an answer that is recorded already, the clock cannot tell any more what it was made under.
    limit = turn.budget.reached(steps[:-1])
    while not steps or steps[-1].calls:
        if steps:
            async with aclosing(_settle_calls(turn, steps[-1], resumed=len(steps) == len(journal))) as events:
                async for event in events:
                    yield event
            yield chunks.finish_step()
        elif turn.budget.outside:
            yield Reached(turn.budget.outside, answered=False)
            return
        limit = turn.budget.reached(steps, asyncio.get_running_loop().time())
        yield chunks.start_step()
        step: ModelStep | None = None
        async with aclosing(_model_step(asking, steps, is_last=limit is not None)) as events:
            async for event in events:
                step = event if isinstance(event, ModelStep) else step
                yield event
        assert step is not None
        steps.append(RecordedStep(step.parts, step.calls, {}, step.usage))
        if not step.calls:
            yield chunks.finish_step()
    # Who could not have called anything missed nothing.
    if limit and (turn.tools or len(steps) > 1):
        yield replace(limit, answered=_says_something(steps[-1]))


def _says_something(step: RecordedStep) -> bool:
    return any(part["type"] == "text" and part["text"].strip() for part in step.parts)


class _Asking:
    """How the model is asked, and which: what one step finds out about that holds for the next ones, too."""

    def __init__(self, client: ModelClient, turn: Turn) -> None:
        self.client = client
        self.turn = turn
        self._memory = Memory(turn.past)
        # The first one is asked; who stood before it was unavailable.
        self._models = [turn.model, *turn.fallbacks]
        self._refused = sys.maxsize

    async def shrunk(self, steps: Sequence[RecordedStep], *, is_last: bool) -> AsyncGenerator[Summarised, None]:
        """Afterwards `request` fits the model's window, or cannot be made to."""
        present, limit = list(journal_messages(steps)), self._limit(is_last=is_last)
        request = ModelRequest(self._models[0], (), (), self.turn.api_base, self.turn.stall)
        async with aclosing(self._memory.shrink(self.client, request, present, limit, self.turn.budget)) as summaries:
            async for summary in summaries:
                yield summary

    def request(self, steps: Sequence[RecordedStep], *, is_last: bool) -> ModelRequest:
        turn = self.turn
        messages = self._memory.messages(list(journal_messages(steps)), self._limit(is_last=is_last))
        if is_last and steps:
            # As a part of the system message: some providers refuse one anywhere but at the beginning.
            first = messages[0]
            messages[0] = {**first, "content": f"{first['content']}\n\n{NO_TOOLS_LEFT}"}
        tools = self._schemas(is_last=is_last)
        return ModelRequest(self._models[0], messages, tools, turn.api_base, turn.stall, turn.settings)

    def _limit(self, *, is_last: bool) -> int:
        window = self.turn.window or window_of(self._models[0])
        asked = min(room_to_ask(window, self.turn.settings.max_tokens), self._refused // 2)
        return asked - most_tokens([NO_TOOLS_LEFT, *self._schemas(is_last=is_last)])

    def _schemas(self, *, is_last: bool) -> list[dict[str, Any]]:
        return [] if is_last else [_schema(tool) for tool in self.turn.tools.values()]

    def refused(self, request: ModelRequest) -> None:
        """The provider counts otherwise than we: half of this will do."""
        self._refused = _size(request)

    def turn_to_next_model(self) -> bool:
        """False: there is none."""
        if len(self._models) == 1:
            return False
        del self._models[0]
        self._refused = sys.maxsize
        return True


def _size(request: ModelRequest) -> int:
    return most_tokens([*request.messages, *request.tools])


class _Tries:
    """How one model call is begun again as long as nothing of it was shown."""

    def __init__(self, asking: _Asking) -> None:
        self._asking = asking
        self._pauses = iter(asking.turn.retry_pauses)
        self._overflow: ModelError | None = None
        self._refused = 0

    def pause(self, error: ModelError, request: ModelRequest) -> float:
        """Seconds to wait before the next one. Raises the error if it stands."""
        if error.code == "context_overflow" and self._overflow is None:
            self._overflow, self._refused = error, _size(request)
            self._asking.refused(request)
            return 0.0
        if error.transient and (pause := next(self._pauses, None)) is not None:
            return min(max(pause, error.retry_after or 0.0), LONGEST_PAUSE)
        if error.is_unavailable and self._asking.turn_to_next_model():
            self._pauses, self._overflow = iter(self._asking.turn.retry_pauses), None
            return 0.0
        raise error

    def check(self, request: ModelRequest) -> None:
        """Raises the error of a request that was too long if this one is no shorter."""
        if self._overflow and _size(request) >= self._refused:
            raise self._overflow


async def _model_step(asking: _Asking, steps: Sequence[RecordedStep], *, is_last: bool) -> AsyncGenerator[Event, None]:
    """One model call, by whichever model is there to answer it."""
    tries = _Tries(asking)
    failed: tuple[str, float] | None = None
    for attempt in count():
        async with aclosing(asking.shrunk(steps, is_last=is_last)) as summaries:
            async for summary in summaries:
                yield summary
        request = asking.request(steps, is_last=is_last)
        tries.check(request)
        if failed is not None:
            reason, pause = failed
            yield chunks.retrying(len(steps), attempt, pause, reason)
            await asyncio.sleep(pause)
        answer = _Answer(asking.turn, request, len(steps), takes_calls=not is_last)
        try:
            async with _stall_watch(asking.turn.stall) as content_came, aclosing(asking.client(request)) as deltas:
                async for delta in deltas:
                    content_came()
                    for chunk in answer.take(delta):
                        yield chunk
                        # The consumer's time is not the model's.
                        content_came()
            for chunk in answer.close():
                yield chunk
            yield answer.step()
            return
        except ModelError as error:
            if answer.shown:
                raise
            failed = error.code, tries.pause(error, request)


def _schema(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}


@asynccontextmanager
async def _stall_watch(seconds: float) -> AsyncIterator[Callable[[], None]]:
    """Raises ModelError when `seconds` pass without a call of what it gives.

    The timeout would hit the consumer's code as well, while the generator waits in a `yield` below it: between two
    calls the consumer must not await.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds) as timeout:
            yield lambda: timeout.reschedule(loop.time() + seconds)
    except TimeoutError as error:
        silence = f"The model fell silent: for {counted(seconds, 'second')} nothing came from it."
        raise ModelError("stall", silence, transient=True) from error


@dataclass(slots=True)
class _Answer:
    """The answer of one model call while it streams: deltas in, chunks out, a ModelStep in the end."""

    turn: Turn
    request: ModelRequest
    index: int
    takes_calls: bool
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    shown: bool = False
    _parts: list[dict[str, Any]] = field(default_factory=lambda: [{"type": "step-start"}])
    _open: str | None = None
    _pieces: list[str] = field(default_factory=list)
    _calls: dict[int, _CallText] = field(default_factory=dict)
    _numbers: dict[str, int] = field(default_factory=dict)
    _finished: Finished | None = None
    _length: int = 0

    def take(self, delta: Said | CallPiece | Finished) -> Iterable[Chunk]:
        """Raises ModelError."""
        if isinstance(delta, Finished):
            self._finished = delta
            return
        if isinstance(delta, CallPiece) and not self.takes_calls:
            return  # it calls although it was offered nothing; a call that nobody answers would dangle
        self.shown = True
        if isinstance(delta, Said):
            self._length += len(delta.text)
            if self._length > LONGEST_ANSWER:
                raise ModelError("answer_too_long", "The model's answer did not end.")
            if self._open != delta.kind:
                yield from self._end_text()
                self._open = delta.kind
                yield chunks.opened(delta.kind, self._part_id(delta.kind))
            self._pieces.append(delta.text)
            yield chunks.delta(delta.kind, self._part_id(delta.kind), delta.text)
        else:
            yield from self._end_text()
            yield from self._take_call(delta)

    def _part_id(self, kind: str) -> str:
        return chunks.part_id(kind, self.index, self._numbers.get(kind, 0))

    def _end_text(self) -> Iterable[Chunk]:
        if self._open is None:
            return
        kind, self._open = self._open, None
        yield chunks.ended(kind, self._part_id(kind))
        self._numbers[kind] = self._numbers.get(kind, 0) + 1
        self._parts.append({"type": kind, "text": "".join(self._pieces), "state": "done"})
        self._pieces.clear()

    def _take_call(self, piece: CallPiece) -> Iterable[Chunk]:
        call = self._calls.get(piece.index)
        if call is None:
            if len(self._calls) >= MOST_CALLS:
                return
            call_id = f"{self.turn.call_prefix}_{self.index}_{len(self._calls)}"
            call = self._calls[piece.index] = _CallText(call_id, _tool_name(piece.name))
            yield chunks.tool_input_start(call.id, call.name)
        if piece.arguments and call.add(piece.arguments):
            yield chunks.tool_input_delta(call.id, piece.arguments)

    def close(self) -> Iterable[Chunk]:
        """The end of the stream: what is open is ended, the arguments of every call are read."""
        yield from self._end_text()
        for call in self._calls.values():
            call.read(self.turn.tools)
            yield chunks.tool_input_available(call.id, call.name, call.input)
            part = {"type": f"tool-{call.name}", "toolCallId": call.id, "state": "input-available"}
            self._parts.append({**part, "input": call.input})

    def step(self) -> ModelStep:
        if self._finished is None:
            raise ModelError("stream_truncated", "The model's answer broke off before its end.", transient=True)
        calls = [call.as_call(self.turn.tools) for call in self._calls.values()]
        end = self._finished
        return ModelStep(self.index, self._parts, calls, self._usage(end), end.model, end.reason[:32], self.started_at)

    def _usage(self, end: Finished) -> Usage:
        """Where the provider did not say, and its client did not either."""
        if not end.usage.estimated or end.usage.input_tokens:
            return end.usage
        return estimated_usage(self.request.model, self.request.messages, self._parts)


def _tool_name(name: str) -> str:
    """A model may ask for anything; what it asked for becomes the type of a part."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64] or "unnamed"


@dataclass(slots=True)
class _CallText:
    """A tool call while its arguments arrive, as text, capped."""

    id: str
    name: str
    input: Any = None
    refusal: str | None = None
    _pieces: list[str] = field(default_factory=list)
    _length: int = 0

    def add(self, text: str) -> bool:
        """Whether it was kept."""
        self._length += len(text)
        if self._length > LONGEST_ARGUMENTS:
            return False
        self._pieces.append(text)
        return True

    def read(self, tools: Mapping[str, Tool]) -> None:
        raw = "".join(self._pieces)
        self.input = raw
        if self._length > LONGEST_ARGUMENTS:
            self.refusal = f"The arguments are longer than {LONGEST_ARGUMENTS} characters."
            return
        try:
            value = json.loads(raw or "{}")
        except (ValueError, RecursionError):
            self.refusal = "The arguments are not valid JSON."
            return
        if not isinstance(value, dict):
            self.refusal = "The arguments are not a JSON object."
            return
        try:
            self.input = storable(value)
        except UnstorableError as error:
            self.refusal = f"The arguments cannot be used: {error}."
            return
        if self.name not in tools:
            self.refusal = f"There is no tool named {self.name}."

    def as_call(self, tools: Mapping[str, Tool]) -> Call:
        repeat = tools[self.name].repeat if self.name in tools else Repeat.SAFE
        return Call(self.id, self.name, self.input, str(repeat), self.refusal)


async def _settle_calls(turn: Turn, step: RecordedStep, *, resumed: bool) -> AsyncGenerator[Event, None]:
    """Runs the calls that have no outcome yet, several at once, and yields each outcome as it ends."""
    slots = asyncio.Semaphore(MOST_CALLS_AT_ONCE)

    async def settle(call: Call) -> Outcome:
        if resumed and call.repeat == Repeat.ONCE and call.refusal is None:
            return Outcome(call.id, error=UNKNOWN_OUTCOME)
        async with slots:
            return await _run_call(turn, call)

    tasks = [asyncio.create_task(settle(call)) for call in step.unsettled]
    try:
        for finished in asyncio.as_completed(tasks):
            outcome = await finished
            step.outcomes[outcome.call_id] = outcome
            yield outcome
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _run_call(turn: Turn, call: Call) -> Outcome:
    if call.refusal is not None:
        return Outcome(call.id, error=call.refusal)
    tool = turn.tools.get(call.name)
    if tool is None or not isinstance(call.input, dict):
        # A recorded call whose refusal was lost with its worker.
        return Outcome(call.id, error=f"There is no tool named {call.name} that takes these arguments.")
    try:
        return Outcome(call.id, output=await tool.call(call.input, turn.context(call.id)))
    except ToolError as error:
        return Outcome(call.id, error=str(error))
