"""The chunks of the AI SDK UI message stream, version 1, that the service emits: a closed vocabulary of plain dicts.

Source: `docs/stream.md`, "Chunks we emit". Optional fields are left out, never null, and no others exist: early `ai`
releases refuse unknown ones. `type` stands first in every chunk; readers of the log rely on it.
"""

from typing import Any

Chunk = dict[str, Any]
Metadata = dict[str, Any]


def part_id(kind: str, step: int, number: int) -> str:
    """The id of the `number`-th text or reasoning of a step: the loop and a replay of the step name it alike."""
    return f"{kind}-{step}-{number}"


def start(message_id: str, metadata: Metadata) -> Chunk:
    return {"type": "start", "messageId": message_id, "messageMetadata": metadata}


def start_step() -> Chunk:
    return {"type": "start-step"}


def finish_step() -> Chunk:
    return {"type": "finish-step"}


def opened(kind: str, part_id: str) -> Chunk:
    """`kind` is text or reasoning, here and in the next two."""
    return {"type": f"{kind}-start", "id": part_id}


def delta(kind: str, part_id: str, text: str) -> Chunk:
    return {"type": f"{kind}-delta", "id": part_id, "delta": text}


def ended(kind: str, part_id: str) -> Chunk:
    return {"type": f"{kind}-end", "id": part_id}


def tool_input_start(call_id: str, name: str) -> Chunk:
    return {"type": "tool-input-start", "toolCallId": call_id, "toolName": name}


def tool_input_delta(call_id: str, text: str) -> Chunk:
    return {"type": "tool-input-delta", "toolCallId": call_id, "inputTextDelta": text}


def tool_input_available(call_id: str, name: str, value: Any) -> Chunk:
    return {"type": "tool-input-available", "toolCallId": call_id, "toolName": name, "input": value}


def tool_output_available(call_id: str, value: Any) -> Chunk:
    return {"type": "tool-output-available", "toolCallId": call_id, "output": value}


def tool_output_error(call_id: str, text: str) -> Chunk:
    return {"type": "tool-output-error", "toolCallId": call_id, "errorText": text}


def message_metadata(metadata: Metadata) -> Chunk:
    """Merged deeply into the message's metadata by every reader."""
    return {"type": "message-metadata", "messageMetadata": metadata}


def retrying(step_count: int, attempt: int, in_seconds: float, reason: str) -> Chunk:
    """A transient notice: the model is called again `in_seconds` from now. `reason` is a code, not prose."""
    retry = {"attempt": attempt, "inSeconds": in_seconds, "reason": reason}
    return {
        "type": "data-run",
        "data": {"status": "running", "stepCount": step_count, "retry": retry},
        "transient": True,
    }


def error(text: str) -> Chunk:
    """For people: no secrets, no stack."""
    return {"type": "error", "errorText": text}


def abort() -> Chunk:
    return {"type": "abort"}


def finish(metadata: Metadata) -> Chunk:
    return {"type": "finish", "messageMetadata": metadata}
