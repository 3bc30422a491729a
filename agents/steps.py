"""What a turn is made of, as values: the steps of the model, the tool calls in them and how each of those ended."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from agents.llm import Usage


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call. `id` is ours and unique in the run, since providers use theirs again.

    `refusal` is what the model is told where the call cannot be made at all (broken arguments, unknown tool); `input`
    is then what it sent, as text if it was no JSON object.
    """

    id: str
    name: str
    input: Any
    repeat: str
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended: with an output, any JSON value, or with an `error` for the model to read."""

    call_id: str
    output: Any = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class StepEcho:
    """See `agents.llm.Echo`; `model` is the one that was asked, and alone is told. `calls` is by the id of the call."""

    model: str
    message: dict[str, Any] = field(default_factory=dict)
    calls: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelStep:
    """One finished model call. `parts` are UI message parts, its tool calls among them as `input-available`."""

    index: int
    parts: list[dict[str, Any]]
    calls: Sequence[Call]
    usage: Usage
    model: str
    finish_reason: str
    started_at: datetime
    echo: StepEcho | None = None


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """A step as the journal has it: where a later attempt goes on. A call without an outcome may have begun."""

    parts: list[dict[str, Any]]
    calls: Sequence[Call]
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    echo: StepEcho | None = None

    @property
    def unsettled(self) -> list[Call]:
        return [call for call in self.calls if call.id not in self.outcomes]
