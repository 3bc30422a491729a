"""What the streams carry, in JSON Schema: their events, and the chunks in those. Source: `docs/stream.md`."""

from typing import Any

from chat.parts_schema import TEXT, Shape, thing
from runs import eventlog

_REF = "#/components/schemas/{}"
_ID: Shape = {"type": "string", "format": "uuid"}
ENTRY_ID: Shape = {"type": "string", "pattern": eventlog.ENTRY_ID.pattern, "examples": ["1-42"]}
_COUNT: Shape = {"type": "integer", "minimum": 0}

METADATA: dict[str, Shape] = {
    "MessageUsage": thing(
        {"inputTokens": _COUNT, "outputTokens": _COUNT, "costUsd": {"type": "number"}, "estimated": {"type": "boolean"}}
    ),
    "MessageRun": thing(
        {"id": _ID, "status": {"enum": ["succeeded", "failed", "aborted"]}, "endReason": TEXT},
    ),
}
_USAGE: Shape = {"$ref": _REF.format("MessageUsage")}
_ENDED: Shape = {"run": {"$ref": _REF.format("MessageRun")}, "usage": _USAGE}


def _chunk(kind: str, **fields: Shape) -> Shape:
    return thing({"type": {"const": kind}, **fields})


def _streamed(kind: str) -> dict[str, Shape]:
    name = kind.capitalize()
    return {
        f"{name}StartChunk": _chunk(f"{kind}-start", id=TEXT),
        f"{name}DeltaChunk": _chunk(f"{kind}-delta", id=TEXT, delta=TEXT),
        f"{name}EndChunk": _chunk(f"{kind}-end", id=TEXT),
    }


CHUNKS: dict[str, Shape] = {
    "StartChunk": _chunk(
        "start", messageId=_ID, messageMetadata=thing({"chatId": _ID, "runId": _ID, "attempt": _COUNT})
    ),
    "StartStepChunk": _chunk("start-step"),
    "FinishStepChunk": _chunk("finish-step"),
    **_streamed("text"),
    **_streamed("reasoning"),
    "ToolInputStartChunk": _chunk("tool-input-start", toolCallId=TEXT, toolName=TEXT),
    "ToolInputDeltaChunk": _chunk("tool-input-delta", toolCallId=TEXT, inputTextDelta=TEXT),
    "ToolInputAvailableChunk": _chunk("tool-input-available", toolCallId=TEXT, toolName=TEXT, input={}),
    "ToolOutputAvailableChunk": _chunk("tool-output-available", toolCallId=TEXT, output={}),
    "ToolOutputErrorChunk": _chunk("tool-output-error", toolCallId=TEXT, errorText=TEXT),
    "MessageMetadataChunk": _chunk("message-metadata", messageMetadata=thing({}, _ENDED)),
    "DataRunChunk": _chunk(
        "data-run",
        data=thing(
            {"status": TEXT, "stepCount": _COUNT},
            {"retry": thing({"attempt": _COUNT, "inSeconds": {"type": "number"}, "reason": TEXT})},
        ),
        transient={"const": True},
    ),
    "ErrorChunk": _chunk("error", errorText=TEXT),
    "AbortChunk": _chunk("abort"),
    "FinishChunk": _chunk("finish", messageMetadata=thing(_ENDED)),
}
_CHUNK: Shape = {
    "oneOf": [{"$ref": _REF.format(name)} for name in CHUNKS],
    "discriminator": {
        "propertyName": "type",
        "mapping": {shape["properties"]["type"]["const"]: _REF.format(name) for name, shape in CHUNKS.items()},
    },
}


def _json(shape: Shape) -> Shape:
    return {"type": "string", "contentMediaType": "application/json", "contentSchema": shape}


def _event(name: str, data: Shape, **fields: Shape) -> Shape:
    """As a reader of server-sent events has it: `message` is the name of one that has none."""
    return {
        "type": "object",
        "properties": {"event": {"const": name}, "data": data, **fields},
        "required": ["event", "data"],
    }


FEED_ID: Shape = {"type": "string", "pattern": "^user-[0-9]+:0$"}
_CHANNELS = thing({"channels": {"type": "array", "items": TEXT}})

EVENTS: dict[str, Shape] = {
    "RunStreamEvent": _event(
        "message",
        {"anyOf": [{"const": "[DONE]"}, _json({"$ref": _REF.format("Chunk")})]},
        id=ENTRY_ID,
    ),
    "FeedEvent": {
        "oneOf": [
            _event(
                "run",
                _json(
                    thing(
                        {
                            "id": _ID,
                            "chat_id": _ID,
                            "status": {"$ref": _REF.format("RunStatus")},
                            "step_count": _COUNT,
                            "end_reason": {"type": ["string", "null"]},
                        }
                    )
                ),
                id=FEED_ID,
            ),
            _event("title", _json(thing({"chat_id": _ID, "title": TEXT})), id=FEED_ID),
            _event("stream-reset", _json(_CHANNELS), id=FEED_ID),
            _event("stream-open", {"const": ""}, id=FEED_ID),
            _event("keep-alive", {"const": ""}, id=FEED_ID),
        ]
    },
}

COMPONENTS: dict[str, Shape] = {**METADATA, **CHUNKS, "Chunk": _CHUNK, **EVENTS}


def stream_of(event: str) -> dict[tuple[int, str], dict[str, Any]]:
    """`responses` of a door that streams these events."""
    return {(200, "text/event-stream"): {"$ref": _REF.format(event)}}
