"""The body of `DefaultChatTransport` of the AI SDK in JSON Schema. Source: `docs/stream.md`, "AI SDK routes"."""

from chat.api.strict import SHOWING, VISIBLE_TEXT, WITHOUT_NUL
from chat.parts_schema import Shape
from chat.serializers import FILE_NAME

_TEXT_PART: Shape = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string", **WITHOUT_NUL}},
    "required": ["type", "text"],
}
_FILE_PART: Shape = {
    "type": "object",
    "properties": {
        "type": {"const": "file"},
        "filename": {"type": "string", "pattern": FILE_NAME.replace(r"\Z", "$"), "maxLength": 255},
        "url": {"type": "string", "description": "A UTF-8 text as a data: URL."},
    },
    "required": ["type", "url"],
}
USER_MESSAGE: Shape = {
    "type": "object",
    "description": "`UIMessage`; what else it has is ignored.",
    "properties": {
        "id": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": VISIBLE_TEXT},
        "role": {"const": "user"},
        "parts": {
            "type": "array",
            "items": {"anyOf": [_TEXT_PART, _FILE_PART]},
            "contains": {"properties": {"type": {"const": "text"}, "text": {"pattern": SHOWING}}},
        },
    },
    "required": ["role", "parts"],
}
CHAT_SEND: Shape = {
    "type": "object",
    "description": "Of the conversation that it brings along only the last message is taken, which is the user's. "
    "What else it has is ignored.",
    "properties": {
        "id": {"type": "string", "format": "uuid", "description": "Of the chat, which is made if there is none."},
        "trigger": {"enum": ["submit-message", "regenerate-message"]},
        "messageId": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": VISIBLE_TEXT},
        "messages": {"type": "array", "minItems": 1, "items": {"type": "object"}},
    },
    "required": ["id", "trigger", "messages"],
    "anyOf": [
        {"properties": {"messages": {"maxItems": 1, "items": {"$ref": "#/components/schemas/UserMessage"}}}},
        {"properties": {"messages": {"minItems": 2}}},
        {"properties": {"trigger": {"const": "regenerate-message"}}, "required": ["messageId"]},
    ],
}
COMPONENTS = {"UserMessage": USER_MESSAGE, "ChatSend": CHAT_SEND}
REQUEST = {kind: {"$ref": "#/components/schemas/ChatSend"} for kind in ("application/json", "text/plain")}
