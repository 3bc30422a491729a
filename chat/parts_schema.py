"""The parts of a message in JSON Schema: AI SDK UI message parts (`UIMessagePart` of `ai`), as far as there are any of
them here. Source: `docs/stream.md`."""

from typing import Any

Shape = dict[str, Any]

TEXT: Shape = {"type": "string"}


def thing(required: Shape, optional: Shape | None = None) -> Shape:
    """An object of these properties and no others."""
    return {
        "type": "object",
        "properties": required | (optional or {}),
        "required": list(required),
        "additionalProperties": False,
    }


def _tool(state: str, **settled: Shape) -> Shape:
    called = {"type": {"type": "string", "pattern": "^tool-"}, "toolCallId": TEXT, "state": {"const": state}}
    return thing(called | settled)


_STREAMED = {"text": TEXT, "state": {"enum": ["streaming", "done"]}}

PARTS: dict[str, Shape] = {
    "StepStartPart": thing({"type": {"const": "step-start"}}),
    "TextPart": thing({"type": {"const": "text"}, "text": TEXT}, {"state": _STREAMED["state"]}),
    "ReasoningPart": thing({"type": {"const": "reasoning"}, **_STREAMED}),
    "FilePart": thing({"type": {"const": "file"}, "mediaType": TEXT, "filename": TEXT, "url": TEXT}),
    "ToolPart": {
        "oneOf": [
            _tool("input-streaming"),
            _tool("input-available", input={}),
            _tool("output-available", input={}, output={}),
            _tool("output-error", input={}, errorText=TEXT),
        ]
    },
}
PART: Shape = {"oneOf": [{"$ref": f"#/components/schemas/{name}"} for name in PARTS]}
