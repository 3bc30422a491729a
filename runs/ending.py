"""How a run ends: its status and reason; and the chunks that begin and end its stream."""

from collections.abc import Iterator
from dataclasses import dataclass

from agents import chunks
from agents.budget import Reached
from agents.chunks import Chunk
from chat.models import Message
from runs.models import Run

LONGEST_ERROR = 4096

_MESSAGE_STATUS = {
    Run.Status.SUCCEEDED: Message.Status.COMPLETED,
    Run.Status.FAILED: Message.Status.ERROR,
    Run.Status.ABORTED: Message.Status.ABORTED,
}
_STOPPED_BY = {"disconnect": Run.EndReason.DISCONNECTED, "superseded": Run.EndReason.SUPERSEDED}


@dataclass(frozen=True, slots=True)
class Ending:
    """`error` is for people, empty where there is none: no secrets, no stack. A success may have one: its limit, which
    only operators are shown."""

    status: Run.Status
    end_reason: Run.EndReason
    error: str = ""

    @property
    def message_status(self) -> Message.Status:
        return _MESSAGE_STATUS[self.status]


COMPLETED = Ending(Run.Status.SUCCEEDED, Run.EndReason.COMPLETED)
INTERNAL_ERROR = Ending(Run.Status.FAILED, Run.EndReason.INTERNAL_ERROR, "Something went wrong on our side.")
WORKER_LOST = Ending(
    Run.Status.ABORTED, Run.EndReason.WORKER_LOST, "The workers that held this run were lost too often."
)


def provider_failed(text: str) -> Ending:
    return Ending(Run.Status.FAILED, Run.EndReason.PROVIDER_ERROR, text[:LONGEST_ERROR])


def limit_reached(reached: Reached) -> Ending:
    """A run that could still answer has succeeded; its error says what kept it from going on."""
    status = Run.Status.SUCCEEDED if reached.answered else Run.Status.FAILED
    return Ending(status, Run.EndReason.TIMEOUT if reached.is_time else Run.EndReason.BUDGET, reached.text)


def stopped(source: str) -> Ending:
    return Ending(Run.Status.ABORTED, _STOPPED_BY.get(source, Run.EndReason.STOPPED))


def ending_of(run: Run) -> Ending:
    """Of a terminal row."""
    return Ending(Run.Status(run.status), Run.EndReason(run.end_reason), run.error)


def start_chunk(run: Run) -> Chunk:
    metadata = {"chatId": str(run.chat_id), "runId": str(run.pk), "attempt": run.attempt}
    return chunks.start(str(run.message_id), metadata)


def ending_chunks(run: Run, ending: Ending | None = None) -> Iterator[Chunk]:
    """The last chunks of a stream, `finish` at the end. Without `ending`: that of a terminal row."""
    ending = ending or ending_of(run)
    metadata = {"run": {"id": str(run.pk), "status": str(ending.status), "endReason": str(ending.end_reason)}}
    metadata["usage"] = run.usage
    if ending.status != Run.Status.SUCCEEDED:
        # Before `error`: clients take no metadata after it.
        yield chunks.message_metadata(metadata)
        yield chunks.abort() if ending.status == Run.Status.ABORTED else chunks.error(ending.error)
    yield chunks.finish(metadata)
