"""What a strict provider asks of a request: the union of what the pickiest of them refuse."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from agents.demo.wire import JsonObject

TOKEN = re.compile(r"\w{1,5}|[^\w\s]")
TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}\Z")


class RequestError(ValueError):
    """Why the request is refused."""


def check_request(body: object) -> JsonObject:
    """Raises RequestError."""
    if not isinstance(body, dict):
        raise RequestError("The body is not a JSON object.")
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise RequestError("you must provide a model parameter")
    if body.get("stream_options") is not None and not body.get("stream"):
        raise RequestError("The 'stream_options' parameter is only allowed when 'stream' is enabled.")
    _check_tools(body.get("tools"))
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError("[] is too short - 'messages'")
    check_history(messages)
    return body


def tool_names(body: JsonObject) -> tuple[str, ...]:
    tools = body.get("tools")
    return tuple(tool["function"]["name"] for tool in tools) if isinstance(tools, list) else ()


def _check_tools(tools: object) -> None:
    if tools is None:
        return
    if not isinstance(tools, list) or not tools:
        raise RequestError("[] is too short - 'tools'")
    names = [_offered_name(tool) for tool in tools]
    if len(set(names)) < len(names):
        raise RequestError("Tool names must be unique.")


def _offered_name(tool: object) -> str:
    match tool:
        case {"type": "function", "function": {"name": str(name)}} if TOOL_NAME.match(name):
            return name
    raise RequestError("Invalid 'tools': each must be a function with a name of [a-zA-Z0-9_-], at most 64 long.")


def check_history(messages: Sequence[object]) -> None:
    """Raises RequestError."""
    reading = _Reading()
    for index, message in enumerate(messages):
        try:
            reading.read(index, message)
        except RequestError as error:
            raise RequestError(f"messages[{index}]: {error}") from None
    reading.expect_all_answered()
    if reading.last_role not in ("user", "tool"):
        # Providers without "prefill" do not go on from an assistant message.
        raise RequestError("The last message must be of role user or tool.")


@dataclass
class _Reading:
    """Where a walk through the history stands."""

    last_role: str = ""  # of the last message that is no system message
    unanswered: dict[str, str] = field(default_factory=dict)  # call id -> tool name

    def read(self, index: int, message: object) -> None:
        if not isinstance(message, dict):
            raise RequestError("not an object")
        role = message.get("role")
        if role != "tool":
            self.expect_all_answered()
        match role:
            case "system" | "developer":
                self._system(index, message)
            case "user":
                self._user(message)
            case "assistant":
                self._assistant(message)
            case "tool":
                self._tool(message)
            case _:
                raise RequestError(f"unknown role {role!r}")

    def expect_all_answered(self) -> None:
        if self.unanswered:
            raise RequestError(
                "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
                f"'tool_call_id'. Without response: {', '.join(self.unanswered)}"
            )

    def _system(self, index: int, message: JsonObject) -> None:
        if index:
            raise RequestError("only the first message may be of role system")
        _expect_text(message)

    def _user(self, message: JsonObject) -> None:
        if self.last_role == "user":
            raise RequestError("roles must alternate: two user messages in a row")
        _expect_text(message)
        self.last_role = "user"

    def _assistant(self, message: JsonObject) -> None:
        if not self.last_role:
            raise RequestError("the first message that is no system message must be of role user")
        if self.last_role == "assistant":
            raise RequestError("roles must alternate: two assistant messages in a row")
        calls = message.get("tool_calls")
        if calls is None:
            _expect_text(message)
        elif not isinstance(calls, list) or not calls:
            raise RequestError("'tool_calls' must not be empty")
        else:
            self._expect_calls(calls)
        self.last_role = "assistant"

    def _expect_calls(self, calls: Sequence[object]) -> None:
        for call in calls:
            match call:
                case {"type": "function", "id": str(id), "function": {"name": str(name), "arguments": str(arguments)}}:
                    _expect_call(name, arguments)
                case _:
                    raise RequestError("a tool call needs a type, an id, a name and arguments")
            if not id or id in self.unanswered:
                raise RequestError(f"the tool call id {id!r} is empty or not unique")
            self.unanswered[id] = name

    def _tool(self, message: JsonObject) -> None:
        id = message.get("tool_call_id")
        if not isinstance(id, str) or id not in self.unanswered:
            raise RequestError("a tool message must respond to a preceding message with 'tool_calls'")
        name = self.unanswered.pop(id)
        if message.get("name", name) != name:
            raise RequestError(f"the tool message names {message['name']!r}, its call named {name!r}")
        if not isinstance(message.get("content"), str | list):
            raise RequestError("'content' must be a string or an array")
        self.last_role = "tool"


def _expect_call(name: str, arguments: str) -> None:
    if not TOOL_NAME.match(name):
        raise RequestError("a tool call's name must match [a-zA-Z0-9_-], at most 64 long")
    try:
        parsed = json.loads(arguments)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise RequestError(f"the arguments of the call to {name} are not a JSON object")


def _expect_text(message: JsonObject) -> None:
    if not text_of(message).strip():
        raise RequestError(f"a message of role {message['role']} must have non-empty content")


def text_of(message: JsonObject) -> str:
    """The text of a message's content, of its parts joined if there are several; images and the like are none."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def length_of(body: JsonObject) -> int:
    """In this model's own tokens: up to five letters of a word, or a sign."""
    said = [body["messages"], body.get("tools") or []]
    return len(TOKEN.findall(json.dumps(said, ensure_ascii=False)))
