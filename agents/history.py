"""Stored messages to provider messages: whatever is stored, what comes out is valid for every provider.

Valid means: every tool call is followed by its result, no content is empty, user and assistant take turns, and the
first of them is the user.
"""

import json
import re
from base64 import b64decode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from agents.llm import ProviderMessage
from agents.steps import RecordedStep, StepEcho

Part = dict[str, Any]

LOST = "The outcome of this tool call is unknown."
GO_ON = "Your answer was interrupted here. Go on exactly where it ended, without repeating any of it."
SUMMARY = "This is a summary of what was said in this conversation before:"
UNDERSTOOD = "I have read it and go on from there."
BEGINNING = "(The conversation begins here.)"
EMPTY = "(empty)"


@dataclass(slots=True)
class Exchange:
    """A question and all that came of it, as a provider gets it. `last` is the id of the last stored message in it."""

    messages: list[ProviderMessage]
    last: Any = None


@dataclass(frozen=True, slots=True)
class Past:
    """What was said before a run's own answer: in full where `exchanges` have it, in short before that."""

    instructions: str
    exchanges: Sequence[Exchange]
    summary: str = ""

    def messages(self) -> list[ProviderMessage]:
        """Never empty, and valid as it is: the request of the first step."""
        messages: list[ProviderMessage] = [{"role": "system", "content": self.instructions}]
        if self.summary:
            # Not in the system message: what people and tools said must not become instructions.
            messages.append({"role": "user", "content": f"{SUMMARY}\n\n{self.summary}"})
            messages.append({"role": "assistant", "content": UNDERSTOOD})
        for exchange in self.exchanges:
            messages += exchange.messages
        return messages


def past(instructions: str, stored: Iterable[tuple[Any, str, Sequence[Part]]], summary: str = "") -> Past:
    """`stored` is (id, role, parts) of every message behind those that the summary covers, oldest first.

    An answer right behind another one is the rest of it: its run was continued. Not every provider goes on from words
    of its own, so it is asked to, between the two and at the end. It stays there: later requests begin as this one did,
    which is what providers cache.
    """
    exchanges: list[Exchange] = []
    for message_id, role, parts in stored:
        if role == "user":
            question: ProviderMessage = {"role": "user", "content": _user_content(parts)}
            if exchanges and len(exchanges[-1].messages) == 1:
                _append(exchanges[-1].messages, question)  # nobody answered the last one
            else:
                exchanges.append(Exchange([question]))
        else:
            if not exchanges:
                exchanges.append(Exchange([{"role": "user", "content": BEGINNING}]))
            for index, message in enumerate(assistant_messages(parts)):
                if index == 0:
                    _ask_to_go_on(exchanges[-1].messages)
                _append(exchanges[-1].messages, message)
        exchanges[-1].last = message_id
    if not exchanges:
        exchanges.append(Exchange([{"role": "user", "content": BEGINNING}]))
    _ask_to_go_on(exchanges[-1].messages)
    return Past(instructions, exchanges, summary)


def provider_messages(instructions: str, stored: Iterable[tuple[str, Sequence[Part]]]) -> list[ProviderMessage]:
    """All of it in full. `stored` is (role, parts) of every message, oldest first."""
    return past(instructions, ((None, role, parts) for role, parts in stored)).messages()


def _ask_to_go_on(messages: list[ProviderMessage]) -> None:
    if messages[-1]["role"] == "assistant":
        messages.append({"role": "user", "content": GO_ON})


def _user_content(parts: Sequence[Part]) -> str:
    said = "\n\n".join([*(_framed(part) for part in parts if part["type"] == "file"), _text(parts)])
    # Some providers refuse a message that says nothing, and so a result.
    return said if said.strip() else EMPTY


def _framed(part: Part) -> str:
    """A text file, in a fence longer than any in it: what it says cannot pretend to stand outside of it."""
    text = b64decode(part["url"].partition(",")[2]).decode(errors="replace")
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
    return f"File {json.dumps(part['filename'], ensure_ascii=False)}:\n{fence}\n{text}\n{fence}"


def journal_messages(journal: Sequence[RecordedStep], model: str) -> Iterator[ProviderMessage]:
    """The steps of the present turn so far, all of whose calls have an outcome, for this model.

    What it thought before it called a tool it reads again: DeepSeek, Anthropic and Gemini refuse the turn, or think
    worse, without. Thoughts of another model, or of an earlier turn, no provider wants.
    """
    for step in journal:
        for message in assistant_messages(settled_parts(step)):
            echo = step.echo
            yield _with_echo(message, echo) if echo and echo.model == model and "tool_calls" in message else message


def _with_echo(message: ProviderMessage, echo: StepEcho) -> ProviderMessage:
    calls = [{**call, **echo.calls.get(call["id"], {})} for call in message["tool_calls"]]
    return {**echo.message, **message, "tool_calls": calls}


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
    """One assistant message for each step, followed by the results of its tool calls."""
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
    return {"role": "tool", "tool_call_id": part["toolCallId"], "content": content or EMPTY}


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
