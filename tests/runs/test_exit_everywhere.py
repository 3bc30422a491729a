"""A turn of text, reasoning, two tool calls and text again is left at every place of it, by every cause there is."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from agents.demo.history import check_history
from agents.llm import CallPiece, Delta, Finished, ModelError, ModelRequest, Said, Usage
from agents.tools import Repeat, ToolContext, tool
from chat.models import Chat
from runs import failpoints, stop, sweep
from runs.models import Run, ToolCall
from runs.tools import TOOLS
from runs.worker import Worker
from tests.factories import ChatFactory, MessageFactory, RunFactory
from tests.runs.conftest import audit, begin, ended, logged, text, until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("note")]

# What the model says in each of its two calls.
STEPS: tuple[list[Delta], list[Delta]] = (
    [
        Said("text", "Let me "),
        Said("text", "see."),
        Said("reasoning", "Two notes "),
        Said("reasoning", "will do."),
        CallPiece(0, "note", '{"name": '),
        CallPiece(0, "", '"a"}'),
        CallPiece(1, "note", '{"name": "b"}'),
        Finished("tool_calls", Usage(3, 2), "demo"),
    ],
    [Said("text", " Both are "), Said("text", "noted."), Finished("stop", Usage(3, 2), "demo")],
)
WHOLE = "Let me see. Both are noted."

# Before a delta of a model call, (step, number), or within a tool call, by its argument.
Place = tuple[int, int] | str
IN_MODEL: list[Place] = [(step, number) for step in (0, 1) for number in range(len(STEPS[step]))]
IN_TOOLS: list[Place] = ["a", "b"]
PLACES = [*IN_MODEL, *IN_TOOLS]


@dataclass
class Halt:
    """One run's exit: once, at its place, it raises the error, or stands still until somebody ends it."""

    place: Place | None
    error: Exception | None
    reached: threading.Event = field(default_factory=threading.Event)

    async def at(self, place: Place) -> None:
        if place != self.place or self.reached.is_set():
            return
        self.reached.set()
        if self.error is not None:
            raise self.error
        await asyncio.sleep(60)


class Script:
    """The model of all runs at once, strict about history; it tells runs by their prompts, which are their ids."""

    def __init__(self) -> None:
        self.halts: dict[UUID, Halt] = {}
        self.calls: list[UUID] = []

    async def __call__(self, request: ModelRequest, /) -> AsyncGenerator[Delta, None]:
        check_history(request.messages)
        prompts = [message["content"] for message in request.messages if message["role"] == "user"]
        run_id = UUID(prompts[-1].split()[-1])
        self.calls.append(run_id)
        step = 1 if request.messages[-1]["role"] == "tool" else 0
        for number, delta in enumerate(STEPS[step]):
            await self.halts[run_id].at((step, number))
            yield delta

    def new_run(
        self, chat: Chat | None = None, *, place: Place | None = None, error: Exception | None = None, **fields: Any
    ) -> Run:
        run_id, chat = uuid7(), chat or ChatFactory()
        MessageFactory(chat=chat, parts=[{"type": "text", "text": str(run_id)}])
        self.halts[run_id] = Halt(place, error)
        return RunFactory(pk=run_id, chat=chat, **fields)

    def halted(self, worker: Worker, **fields: Any) -> dict[Place, Run]:
        """A run at every place, standing still, all of them held by this worker."""
        runs = {place: self.new_run(place=place, **fields) for place in PLACES}
        for run in runs.values():
            begin(worker, run)
        for place, run in runs.items():
            assert self.halts[run.pk].reached.wait(10), place
        return runs


@pytest.fixture
def model() -> Script:
    return Script()


@pytest.fixture
def note(model: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    @tool(repeat=Repeat.SAFE)
    async def note(context: ToolContext, name: str) -> str:
        """Notes a name."""
        await model.halts[context.run_id].at(name)
        return f"noted {name}"

    monkeypatch.setitem(TOOLS, "note", note)


def said_before(place: Place) -> str:
    step, number = place if isinstance(place, tuple) else (0, len(STEPS[0]))
    deltas = [*(STEPS[0] if step else ()), *STEPS[step][:number]]
    return "".join(delta.text for delta in deltas if isinstance(delta, Said) and delta.kind == "text")


def is_over(run: Run) -> bool:
    """Its last chunk is written, which comes after the row."""
    chunks = logged(run)
    return bool(chunks) and chunks[-1]["type"] == "finish"


def audit_all(runs: Iterable[Run], worker: Worker, model: Script) -> None:
    """Each of them ended whole, and its chat takes the next turn."""
    followings = []
    for run in runs:
        until(lambda run=run: is_over(run), 10)
        audit(run)
        followings.append(model.new_run(run.chat))
    execute_all(worker, followings)
    for following in followings:
        assert (audit(following).status, text(following)) == ("succeeded", WHOLE)


def execute_all(worker: Worker, runs: Iterable[Run], attempt: int = 1) -> None:
    for thread in [begin(worker, run, attempt) for run in runs]:
        ended(thread, 20)


def left_calls(run: Run) -> list[str]:
    """The tool calls in the message that are neither answered nor failed."""
    assert run.message is not None
    calls = [part for part in run.message.parts if part["type"].startswith("tool-")]
    return [call["state"] for call in calls if not call["state"].startswith("output-")]


def test_a_stop_at_every_place_keeps_what_was_said_until_then(worker: Worker, model: Script) -> None:
    runs = model.halted(worker)
    for run in runs.values():
        stop.request_stop(run.pk, None, "user")
    audit_all(runs.values(), worker, model)
    for place, run in runs.items():
        assert (place, run.status, run.end_reason, run.error) == (place, "aborted", "stopped", "")
        assert (place, text(run), left_calls(run)) == (place, said_before(place), [])


def test_the_deadline_at_every_place_keeps_what_was_said_until_then(worker: Worker, model: Script) -> None:
    runs = model.halted(worker, max_seconds=2.0)
    audit_all(runs.values(), worker, model)
    for place, run in runs.items():
        assert (place, run.status, run.end_reason) == (place, "failed", "timeout")
        assert (place, text(run), left_calls(run)) == (place, said_before(place), [])


@pytest.mark.parametrize("place", IN_MODEL)
def test_a_provider_error_at_every_place_keeps_what_was_said_until_then(
    worker: Worker, model: Script, place: Place
) -> None:
    run = model.new_run(place=place, error=ModelError("authentication", "The provider refused."))
    worker.execute(run.pk, 1)
    audit_all([run], worker, model)
    assert (run.status, run.end_reason, run.error) == ("failed", "provider_error", "The provider refused.")
    assert (text(run), left_calls(run)) == (said_before(place), [])


def test_a_crash_at_every_place_costs_at_most_the_step_it_was_in(
    make_worker: Callable[[], Worker], model: Script
) -> None:
    first, second = make_worker(), make_worker()
    runs = model.halted(first)
    first.end()  # its loop stands still from here on, like a process that is gone
    assert set(sweep.sweep(window_seconds=sweep.NO_WINDOW).rescued) == {run.pk for run in runs.values()}
    go_on(second, model, runs)
    assert {run.lost_attempts for run in runs.values()} == {1}


def test_a_hand_over_at_every_place_costs_at_most_the_step_it_was_in(
    make_worker: Callable[[], Worker], model: Script, sent: list[tuple[UUID, int]]
) -> None:
    first, second = make_worker(), make_worker()
    runs = model.halted(first)
    first.close()
    until(lambda: len(sent) == len(runs), 10)
    assert set(sent) == {(run.pk, 2) for run in runs.values()}
    go_on(second, model, runs)
    assert {run.lost_attempts for run in runs.values()} == {0}


def go_on(worker: Worker, model: Script, runs: dict[Place, Run]) -> None:
    """The second attempt of each ends whole, without a call that an earlier one had finished."""
    execute_all(worker, runs.values(), attempt=2)
    for place, run in runs.items():
        assert (place, model.calls.count(run.pk)) == (place, 2 if place in IN_TOOLS else 3)
    audit_all(runs.values(), worker, model)
    for place, run in runs.items():
        assert (place, run.status, text(run), run.attempt, run.step_count) == (place, "succeeded", WHOLE, 2, 2)
        assert set(run.tool_calls.values_list("state", flat=True)) == {ToolCall.State.DONE}


def test_an_error_of_ours_at_every_chunk_keeps_what_was_said_until_then(
    worker: Worker, model: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failpoints, "_folder", str(tmp_path))
    armed, runs = tmp_path / "mid_stream", []
    while not armed.exists():  # it stays when the turn has no more chunks than that
        armed.write_text(f"raise {len(runs)}")
        runs.append(model.new_run())
        worker.execute(runs[-1].pk, 1)
    armed.unlink()
    whole = runs.pop()
    audit_all([*runs, whole], worker, model)
    assert whole.status == "succeeded"
    assert len(runs) > sum(map(len, STEPS))
    for run in runs:
        assert (run.status, run.end_reason, left_calls(run)) == ("failed", "internal_error", [])
    texts = [text(run) for run in runs]
    assert texts == sorted(texts, key=len)
    assert all(WHOLE.startswith(said) for said in texts)
    assert {"", "Let me see.", WHOLE} <= set(texts)
