"""A message while it is being written: chunks fold into its parts, and parts unfold into chunks again.

The folded parts are exactly what an AI SDK client holds after the same chunks (`processUIMessageStream` of `ai`), so
that what is stored, what a reader assembled and what a later replay yields are one thing.
"""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import Any

from agents import chunks
from agents.chunks import Chunk, Metadata

Part = dict[str, Any]

STREAMED = ("text", "reasoning")
INTERRUPTED = "The run ended before this tool call did."


class Transcript:
    """The message of one run as far as it is known.

    `fold` costs the same for the first and the last delta of a long text: open texts are kept in pieces and joined
    when somebody looks.
    """

    def __init__(self, message_id: str, metadata: Metadata) -> None:
        self.message_id = message_id
        self._begin(metadata)

    def _begin(self, metadata: Metadata) -> None:
        self._start_metadata = metadata
        self.metadata: Metadata = deepcopy(metadata)
        self._parts: list[Part] = []
        self._texts: dict[str, tuple[Part, list[str]]] = {}
        self._tools: dict[str, Part] = {}
        self._inputs: dict[str, list[str]] = {}
        self._steps = 0
        self.step_is_open = False

    @property
    def parts(self) -> list[Part]:
        """A copy, fit to be stored or changed."""
        for part, pieces in self._texts.values():
            part["text"] = "".join(pieces)
            pieces[:] = [part["text"]]
        return deepcopy(self._parts)

    def fold(self, chunk: Chunk) -> None:
        """Takes the next chunk, as an AI SDK client does. A `start` drops what was there."""
        kind: str = chunk["type"]
        if kind.endswith("-delta") and kind != "tool-input-delta":
            self._texts[chunk["id"]][1].append(chunk["delta"])
        elif kind in ("text-start", "reasoning-start"):
            part: Part = {"type": kind.removesuffix("-start"), "text": "", "state": "streaming"}
            self._parts.append(part)
            self._texts[chunk["id"]] = (part, [])
        elif kind in ("text-end", "reasoning-end"):
            part, pieces = self._texts.pop(chunk["id"])
            part["text"], part["state"] = "".join(pieces), "done"
        elif kind.startswith("tool-"):
            self._fold_tool(kind, chunk)
        elif kind == "start-step":
            self._parts.append({"type": "step-start"})
            self._steps += 1
            self.step_is_open = True
        elif kind == "finish-step":
            self.step_is_open = False
        elif kind == "start":
            self.message_id = chunk["messageId"]
            self._begin(chunk["messageMetadata"])
        elif "messageMetadata" in chunk:
            merge(self.metadata, chunk["messageMetadata"])

    def _fold_tool(self, kind: str, chunk: Chunk) -> None:
        call_id = chunk["toolCallId"]
        if kind == "tool-input-delta":
            self._inputs[call_id].append(chunk["inputTextDelta"])
            return
        if kind == "tool-input-start":
            self._inputs[call_id] = []
            self._tool(call_id, chunk["toolName"])["state"] = "input-streaming"
        elif kind == "tool-input-available":
            self._inputs.pop(call_id, None)
            self._tool(call_id, chunk["toolName"]).update(state="input-available", input=chunk["input"])
        elif kind == "tool-output-available":
            self._tools[call_id].update(state="output-available", output=chunk["output"])
        elif kind == "tool-output-error":
            self._tools[call_id].update(state="output-error", errorText=chunk["errorText"])

    def _tool(self, call_id: str, name: str) -> Part:
        part = self._tools.get(call_id)
        if part is None:
            part = self._tools[call_id] = {"type": f"tool-{name}", "toolCallId": call_id}
            self._parts.append(part)
        return part

    def split(self, steps: int) -> tuple[list[Part], list[Part]]:
        """The parts of so many steps, and those behind them: for reading only."""
        parts = self.parts_in_place()
        begins = [position for position, part in enumerate(parts) if part["type"] == "step-start"]
        cut = begins[steps] if steps < len(begins) else len(parts)
        return parts[:cut], parts[cut:]

    def sealing(self) -> Iterator[Chunk]:
        """What closes everything still open, in the order `docs/stream.md` asks for before an `abort` or `error`.

        The caller folds what it gets, or not: this changes nothing.
        """
        for name, (part, _) in self._texts.items():
            yield chunks.ended(part["type"], name)
        for call_id, part in self._tools.items():
            if part["state"] == "input-streaming":
                raw = "".join(self._inputs.get(call_id, ()))
                yield chunks.tool_input_available(call_id, part["type"].removeprefix("tool-"), raw)
            if part["state"] in ("input-streaming", "input-available"):
                yield chunks.tool_output_error(call_id, INTERRUPTED)
        if self.step_is_open:
            yield chunks.finish_step()

    def replay(self) -> Iterator[Chunk]:
        """`start` and the whole message so far, in as few chunks as it takes; folding them gives it again."""
        yield chunks.start(self.message_id, self._start_metadata)
        names = {id(part): name for name, (part, _) in self._texts.items()}
        yield from _unfold(self.parts_in_place(), names, self._inputs, step_is_open=self.step_is_open)
        rest = {key: value for key, value in self.metadata.items() if self._start_metadata.get(key) != value}
        if rest:
            yield chunks.message_metadata(rest)

    def parts_in_place(self) -> list[Part]:
        """The parts themselves, texts joined: for reading only."""
        for part, pieces in self._texts.values():
            part["text"] = "".join(pieces)
            pieces[:] = [part["text"]]
        return self._parts


def unfold(parts: list[Part]) -> Iterator[Chunk]:
    """The chunks of a message in which nothing is open any more, without `start` and without an end."""
    return _unfold(parts, {}, {}, step_is_open=False)


def _unfold(
    parts: list[Part], open_texts: dict[int, str], open_inputs: dict[str, list[str]], *, step_is_open: bool
) -> Iterator[Chunk]:
    step = -1
    numbers: dict[str, int] = {}
    for part in parts:
        kind: str = part["type"]
        if kind == "step-start":
            if step >= 0:
                yield chunks.finish_step()
            step += 1
            numbers = {}
            yield chunks.start_step()
        elif kind in STREAMED:
            name = open_texts.get(id(part)) or chunks.part_id(kind, step, numbers.get(kind, 0))
            numbers[kind] = numbers.get(kind, 0) + 1
            yield chunks.opened(kind, name)
            if part["text"]:
                yield chunks.delta(kind, name, part["text"])
            if id(part) not in open_texts:
                yield chunks.ended(kind, name)
        elif kind.startswith("tool-"):
            yield from _unfold_tool(part, "".join(open_inputs.get(part["toolCallId"], ())))
    if step >= 0 and not step_is_open:
        yield chunks.finish_step()


def _unfold_tool(part: Part, raw: str) -> Iterator[Chunk]:
    call_id, name, state = part["toolCallId"], part["type"].removeprefix("tool-"), part["state"]
    if state == "input-streaming":
        yield chunks.tool_input_start(call_id, name)
        if raw:
            yield chunks.tool_input_delta(call_id, raw)
        return
    yield chunks.tool_input_available(call_id, name, part["input"])
    if state == "output-available":
        yield chunks.tool_output_available(call_id, part["output"])
    elif state == "output-error":
        yield chunks.tool_output_error(call_id, part["errorText"])


def merge(into: Metadata, more: Metadata) -> None:
    """The AI SDK's deep merge: objects merge, everything else is replaced."""
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = deepcopy(value)


def assembled(message_id: str, log: Iterable[Chunk]) -> Transcript:
    """The message that these chunks make; they need not begin with `start`."""
    transcript = Transcript(message_id, {})
    for chunk in log:
        transcript.fold(chunk)
    return transcript
