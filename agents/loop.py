"""The agent's turn as an async generator: model, tool calls, model ..., yielding chunks and finished steps.

It stores nothing. A `Summarised` is yielded before the step that it makes room for, a `ModelStep` before any of its
tools starts, an `Outcome` as its call ends (the consumer shows it once it is stored), and the loop goes on when its
consumer asks for more: what the consumer stored by then is where a later attempt goes on.

Cancelling the task that iterates, or closing the generator, cancels the model call and every tool in flight.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from agents import chunks
from agents.answer import Answer
from agents.budget import Budget, Reached, counted
from agents.chunks import Chunk
from agents.compaction import Memory, Summarised, room_to_ask, window_of
from agents.estimate import most_tokens
from agents.history import Past, journal_messages
from agents.llm import (
    ModelClient,
    ModelError,
    ModelRequest,
    ModelSettings,
)
from agents.steps import Call, ModelStep, Outcome, RecordedStep
from agents.tools import Repeat, Tool, ToolContext, ToolError

Event = Chunk | ModelStep | Outcome | Summarised | Reached

# Seconds before each further try of a model call that failed before anything was shown.
RETRY_PAUSES = (0.5, 1.0, 2.0, 4.0)
LONGEST_PAUSE = 60.0

MOST_CALLS_AT_ONCE = 8

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
        steps.append(RecordedStep(step.parts, step.calls, {}, step.usage, step.echo))
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
        present, limit = list(journal_messages(steps, self._models[0])), self._limit(is_last=is_last)
        request = ModelRequest(self._models[0], (), (), self.turn.api_base, self.turn.stall)
        async with aclosing(self._memory.shrink(self.client, request, present, limit, self.turn.budget)) as summaries:
            async for summary in summaries:
                yield summary

    def request(self, steps: Sequence[RecordedStep], *, is_last: bool) -> ModelRequest:
        turn = self.turn
        messages = self._memory.messages(list(journal_messages(steps, self._models[0])), self._limit(is_last=is_last))
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
        turn = asking.turn
        answer = Answer(request, len(steps), not is_last, turn.tools, turn.call_prefix)
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
