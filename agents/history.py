"""Stored messages to provider messages: whatever is stored, what comes out is valid for every provider.

Valid means: every tool call is followed by its result, no content is empty, user and assistant take turns, and the
first of them is the user.
"""

import json
import re
from base64 import b64decode
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from agents.llm import ProviderMessage
from agents.steps import RecordedStep

Part = dict[str, Any]

LOST = "The outcome of this tool call is unknown."
GO_ON = "Your answer was interrupted here. Go on exactly where it ended, without repeating any of it."


def provider_messages(instructions: str, stored: Iterable[tuple[str, Sequence[Part]]]) -> list[ProviderMessage]:
    """`stored` is (role, parts) of every message, oldest first.

    An answer right behind another one is the rest of it: its run was continued. Not every provider goes on from words
    of its own, so it is asked to, between the two and at the end. It stays there: later requests begin as this one did,
    which is what providers cache.
    """
    messages: list[ProviderMessage] = [{"role": "system", "content": instructions}]
    for role, parts in stored:
        if role == "user":
            _append(messages, {"role": "user", "content": _user_content(parts)})
            continue
        for index, message in enumerate(assistant_messages(parts)):
            if index == 0:
                _ask_to_go_on(messages)
            _append(messages, message)
    _ask_to_go_on(messages)
    return messages


def _ask_to_go_on(messages: list[ProviderMessage]) -> None:
    if messages[-1]["role"] == "assistant":
        messages.append({"role": "user", "content": GO_ON})


def _user_content(parts: Sequence[Part]) -> str:
    return "\n\n".join([*(_framed(part) for part in parts if part["type"] == "file"), _text(parts)])


def _framed(part: Part) -> str:
    """A text file, in a fence longer than any in it: what it says cannot pretend to stand outside of it."""
    text = b64decode(part["url"].partition(",")[2]).decode(errors="replace")
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
    return f"File {json.dumps(part['filename'], ensure_ascii=False)}:\n{fence}\n{text}\n{fence}"


def journal_messages(journal: Sequence[RecordedStep]) -> Iterator[ProviderMessage]:
    """The steps of the present turn so far, all of whose calls have an outcome."""
    for step in journal:
        yield from assistant_messages(settled_parts(step))


def settled_parts(step: RecordedStep) -> list[Part]:
    """The parts of a step with the outcomes of its calls put in."""
    return [_with_outcome(part, step) for part in step.parts]


def _with_outcome(part: Part, step: RecordedStep) -> Part:
    outcome = step.outcomes.get(part.get("toolCallId", ""))
    if outcome is None:
        return part
    if outcome.error is not None:
        return {**part, "state": "output-error", "errorText": outcome.error}
    return {**part, "state": "output-available", "output": outcome.output}


def assistant_messages(parts: Sequence[Part]) -> Iterator[ProviderMessage]:
    """One assistant message for each step, followed by the results of its tool calls. Reasoning stays with us."""
    for step in _steps(parts):
        calls = [part for part in step if part["type"].startswith("tool-")]
        text = _text(step)
        message: ProviderMessage = {"role": "assistant", "content": text if text.strip() else None}
        if calls:
            message["tool_calls"] = [_tool_call(part) for part in calls]
        if calls or message["content"]:
            yield message
            yield from (_tool_result(part) for part in calls)


def _steps(parts: Sequence[Part]) -> list[list[Part]]:
    steps: list[list[Part]] = [[]]
    for part in parts:
        if part["type"] == "step-start":
            steps.append([])
        else:
            steps[-1].append(part)
    return steps


def _text(parts: Sequence[Part]) -> str:
    return "".join(part["text"] for part in parts if part["type"] == "text")


def _tool_call(part: Part) -> dict[str, Any]:
    value = part.get("input")
    # Arguments that were no JSON object are refused by most providers when they come back.
    arguments = json.dumps(value if isinstance(value, dict) else {}, ensure_ascii=False)
    function = {"name": part["type"].removeprefix("tool-"), "arguments": arguments}
    return {"id": part["toolCallId"], "type": "function", "function": function}


def _tool_result(part: Part) -> ProviderMessage:
    if part["state"] == "output-available":
        output = part.get("output")
        content = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
    else:
        content = "Error: " + part.get("errorText", LOST)
    # Some providers refuse an empty result.
    return {"role": "tool", "tool_call_id": part["toolCallId"], "content": content or "(empty)"}


def _append(messages: list[ProviderMessage], message: ProviderMessage) -> None:
    """Merges two of the same role into one: after a turn without an answer, the next question follows the last."""
    last = messages[-1]
    if message["role"] == last["role"] == "user":
        last["content"] += "\n\n" + message["content"]
    elif message["role"] == last["role"] == "assistant" and not last.get("tool_calls"):
        message = {**message, "content": "\n\n".join(filter(None, (last["content"], message["content"])))}
        messages[-1] = message
    else:
        messages.append(message)
