"""The answer of one model call while it streams: deltas in, chunks out, a `ModelStep` in the end, all of it capped."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from agents import chunks
from agents.chunks import Chunk
from agents.estimate import estimated_usage
from agents.llm import CallPiece, Echo, Finished, ModelError, ModelRequest, Said, Usage
from agents.steps import Call, ModelStep, StepEcho
from agents.tools import Repeat, Tool
from agents.tools.output import UnstorableError, storable

# A step beyond these is told so, call by call; the model may ask for less in its next one.
MOST_CALLS = 64
LONGEST_ARGUMENTS = 256 * 1024
# Characters of text and thinking in one step: beyond, a model has lost its way, and nobody reads on.
LONGEST_ANSWER = 8 * 1024 * 1024


@dataclass(slots=True)
class Answer:
    """The answer of one model call while it streams: deltas in, chunks out, a ModelStep in the end."""

    request: ModelRequest
    index: int
    takes_calls: bool
    tools: Mapping[str, Tool]
    call_prefix: str
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
            call_id = f"{self.call_prefix}_{self.index}_{len(self._calls)}"
            call = self._calls[piece.index] = _CallText(call_id, _tool_name(piece.name))
            yield chunks.tool_input_start(call.id, call.name)
        if piece.arguments and call.add(piece.arguments):
            yield chunks.tool_input_delta(call.id, piece.arguments)

    def close(self) -> Iterable[Chunk]:
        """The end of the stream: what is open is ended, the arguments of every call are read."""
        yield from self._end_text()
        for call in self._calls.values():
            call.read(self.tools)
            yield chunks.tool_input_available(call.id, call.name, call.input)
            part = {"type": f"tool-{call.name}", "toolCallId": call.id, "state": "input-available"}
            self._parts.append({**part, "input": call.input})

    def step(self) -> ModelStep:
        if self._finished is None:
            raise ModelError("stream_truncated", "The model's answer broke off before its end.", transient=True)
        calls = [call.as_call(self.tools) for call in self._calls.values()]
        end = self._finished
        return ModelStep(
            index=self.index,
            parts=self._parts,
            calls=calls,
            usage=self._usage(end),
            model=end.model,
            finish_reason=end.reason[:32],
            started_at=self.started_at,
            echo=self._echo(end.echo) if calls else None,
        )

    def _echo(self, echo: Echo) -> StepEcho | None:
        """None where there is nothing, or nothing that can be stored: then the model has to think again."""
        ids = {position: call.id for position, call in enumerate(self._calls.values())}
        calls = {ids[position]: dict(fields) for position, fields in echo.calls.items() if position in ids}
        if not (echo.message or calls):
            return None
        told = StepEcho(self.request.model, dict(echo.message), calls)
        try:
            # A signature holds for what was signed, to the letter.
            is_storable = storable(asdict(told)) == asdict(told)
        except UnstorableError:
            return None
        return told if is_storable else None

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
