"""Reads what the steps of a run left behind: for the attempt that goes on, and for whoever looks at a live run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from agents.chunks import Chunk, Metadata, finish_step, message_metadata
from agents.estimate import estimated_usage
from agents.history import Past, assistant_messages, past, settled_parts
from agents.llm import Usage
from agents.steps import Call, Outcome, RecordedStep, StepEcho
from chat.models import Message
from runs.ending import Ending, ending_chunks, start_chunk
from runs.eventlog import Entry
from runs.models import Run, Step, Summary, ToolCall
from runs.transcript import Part, Transcript, assembled, unfold


def recorded_steps(run_id: UUID) -> list[RecordedStep]:
    steps = Step.objects.filter(run=run_id).order_by("index").prefetch_related("calls")
    return [_recorded(step) for step in steps]


def _recorded(step: Step) -> RecordedStep:
    calls, outcomes = [], {}
    for call in step.calls.all():
        calls.append(Call(call.call_id, call.name, call.input, call.repeat))
        if call.state == ToolCall.State.DONE:
            outcomes[call.call_id] = Outcome(call.call_id, output=call.output)
        elif call.state == ToolCall.State.FAILED:
            outcomes[call.call_id] = Outcome(call.call_id, error=call.error)
    return RecordedStep(step.parts, calls, outcomes, step.used, StepEcho(**step.echo) if step.echo else None)


def transcript_of(run: Run, steps: list[RecordedStep]) -> Transcript:
    """The message as far as the journal has it; its last step is open if that called tools, as the loop expects it."""
    parts = [part for step in steps for part in settled_parts(step)]
    chunks = list(unfold(parts))
    if steps and steps[-1].calls:
        assert chunks[-1] == finish_step()
        chunks.pop()
    if steps:
        chunks.append(message_metadata({"usage": run.usage}))
    return assembled(str(run.message_id), [start_chunk(run), *chunks])


def message_of(run: Run, log: list[Entry]) -> Transcript:
    """The message of a run nobody settled yet: its journal, and the log for the step that is not recorded yet."""
    steps = recorded_steps(run.pk)
    transcript = transcript_of(run, steps)
    for chunk in _after_step(len(steps), log):
        transcript.fold(chunk)
    return transcript


@dataclass(frozen=True, slots=True)
class Closed:
    """A message as it is stored, and the chunks that tell all of it to a reader, end included."""

    parts: list[Part]
    metadata: Metadata
    chunks: list[Chunk]


def closed(run: Run, transcript: Transcript, ending: Ending | None = None) -> Closed:
    """Ends a message where it is, for a run that nobody is at any more. Without `ending`: that of a terminal row."""
    for chunk in list(transcript.sealing()):
        transcript.fold(chunk)
    so_far, end = list(transcript.replay()), list(ending_chunks(run, ending))
    for chunk in end:
        transcript.fold(chunk)
    return Closed(transcript.parts, transcript.metadata, [*so_far, *end])


def _after_step(count: int, log: list[Entry]) -> Iterator[Chunk]:
    """The chunks of the steps behind the first `count`, and the end of the last of those."""
    steps = 0
    for chunk in (entry.chunk for entry in log):
        steps += chunk["type"] == "start-step"
        if steps > count or (steps == count and chunk["type"] == "finish-step"):
            yield chunk


def interrupted_usage(run: Run, transcript: Transcript, asked: Past) -> Usage:
    """What the step that is not recorded used, estimated: its end, which would tell, never came. `asked` is the history
    before the run.

    Nothing where nothing of it was shown: then perhaps no provider was reached.
    """
    recorded, said = transcript.split(run.step_count)
    if len(said) <= 1:
        return Usage()
    return estimated_usage(run.model, [*asked.messages(), *assistant_messages(recorded)], said)


def history(run: Run, instructions: str) -> Past:
    """All that was said in the chat before this run's answer, as the provider gets it."""
    before = Message.objects.current().filter(chat=run.chat_id).exclude(run=run.pk)
    summary = _summary(run.chat_id)
    if summary is not None:
        before = before.after(summary.last)
    stored = before.order_by("created_at", "pk").values_list("pk", "role", "parts")
    return past(instructions, stored, summary.text if summary else "")


def _summary(chat_id: UUID) -> Summary | None:
    """The one that reaches furthest of those that hold still: what was replaced or deleted is not counted any more."""
    known = Summary.objects.filter(chat=chat_id).select_related("last")
    for summary in known.order_by("-last__created_at", "-last"):
        if Message.objects.current().up_to(summary.last).count() == summary.message_count:
            return summary
    return None
