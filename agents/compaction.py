"""Makes a conversation fit its model's window: old tool output is cut first, then old exchanges become a summary.

Nothing of it changes what is stored: a cut is made anew for each request, a summary stands beside the messages that it
covers. Sizes are in tokens, as `agents.estimate` takes them at the most.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from agents.budget import Budget
from agents.estimate import estimated_usage, most_tokens
from agents.history import Exchange, Past
from agents.llm import Finished, ModelClient, ModelError, ModelRequest, ProviderMessage, Said, Usage

# Of a model that nobody told us about: what those of the last years take, all but the smallest.
UNKNOWN_WINDOW = 128_000
# What of a window is left to the answer, unless the model is told how long that may be: at most so much, or a quarter.
ROOM_TO_ANSWER = 16_000

# What the exchanges that stay may take of the limit once others had to go: the next turns need no summary at once.
SHARE_THAT_STAYS = 0.5
SHARE_OF_SUMMARY = 0.2
# Model calls before one step; what is older still when they are used up is left out of this turn.
MOST_SUMMARIES = 16

KEPT_OF_OUTPUT = 200
CUT = "[{:,} more characters were cut here: the conversation has grown too long for them.]"
# Instead of a summary, where there is none.
LEFT_OUT = "(The beginning of the conversation was left out: it has grown too long.)"

INSTRUCTIONS = "You keep the memory of a conversation between a person and an assistant that has grown too long."
READ = "I have read it."
# The person's words are not the last ones: who reads instructions in the last message finds ours.
REQUEST = (
    "Summarise it for the assistant, who will see nothing else of it. Keep every fact, name, number, decision, wish "
    "and open question, those of an earlier summary too; leave out pleasantries. At most {:,} words, without a preface."
)


@dataclass(frozen=True, slots=True)
class Summarised:
    """A summary of all that was said up to the stored message with the id `last`, for whoever keeps it."""

    text: str
    last: Any
    model: str
    usage: Usage


def window_of(model: str) -> int:
    # Here, because the clients bring what web processes need not carry.
    from agents.clients.prices import context_tokens

    return context_tokens(model) or UNKNOWN_WINDOW


def room_to_ask(window: int, max_tokens: int | None) -> int:
    """How long a request may be whose answer is to fit behind it."""
    room = min(max_tokens, window // 2) if max_tokens else min(ROOM_TO_ANSWER, window // 4)
    return window - room


@dataclass(slots=True)
class Memory:
    """The past of one turn while it shrinks."""

    past: Past
    _has_gap: bool = False

    def messages(self, present: Sequence[ProviderMessage], limit: int) -> list[ProviderMessage]:
        """A request within the limit, as far as cutting tool output makes it fit. `present` is what came of the turn so
        far."""
        messages = [*self.past.messages(), *present]
        excess = most_tokens(messages) - limit
        if excess <= 0:
            return messages
        # Oldest first: what the model is about to read for the first time is cut last.
        for index in range(len(messages)):
            if excess <= 0:
                break
            short = _shortened(messages[index])
            excess -= most_tokens([messages[index]]) - most_tokens([short])
            messages[index] = short
        return messages

    async def shrink(
        self, client: ModelClient, request: ModelRequest, present: Sequence[ProviderMessage], limit: int, budget: Budget
    ) -> AsyncGenerator[Summarised, None]:
        """Until `messages` fit, or nothing but the last exchange is left. `request` says who is asked and how.

        Where no summary can be had the oldest exchanges are left out, of this turn alone: no later summary may cover
        what it has not seen.
        """
        if self._fits(present, limit):
            return
        if self.past.summary:
            # It may have been written for a model with a larger window.
            self.past = replace(self.past, summary=_within(self.past.summary, int(limit * SHARE_OF_SUMMARY)))
        for _ in range(MOST_SUMMARIES):
            going = self._going(present, limit)
            if not going or self._has_gap:
                break
            asked, count = self._request(going, request, limit)
            try:
                said, usage, model = await _ask(client, asked, budget)
            except (ModelError, TimeoutError):
                break
            text = _within(said, int(limit * SHARE_OF_SUMMARY))
            self.past = Past(self.past.instructions, self.past.exchanges[count:], text)
            yield Summarised(text, going[count - 1].last, model, usage)
        if going := self._going(present, limit):
            self._has_gap = True
            summary = self.past.summary.removesuffix(LEFT_OUT).rstrip()
            text = f"{summary}\n\n{LEFT_OUT}".lstrip()
            self.past = Past(self.past.instructions, self.past.exchanges[len(going) :], text)

    def _fits(self, present: Sequence[ProviderMessage], limit: int) -> bool:
        return most_tokens(self.messages(present, limit)) <= limit

    def _going(self, present: Sequence[ProviderMessage], limit: int) -> Sequence[Exchange]:
        """The oldest exchanges, which have to go; none while all fit."""
        exchanges = self.past.exchanges
        if self._fits(present, limit):
            return ()
        rest = limit * SHARE_THAT_STAYS - most_tokens([self.past.instructions, *map(_shortened, present)])
        staying = 0
        for exchange in reversed(exchanges):
            rest -= most_tokens(list(map(_shortened, exchange.messages)))
            if rest < 0:
                break
            staying += 1
        return exchanges[: -max(staying, 1)]

    def _request(self, going: Sequence[Exchange], request: ModelRequest, limit: int) -> tuple[ModelRequest, int]:
        """Asks for a summary of as many of them as fit into one request, and of one at least."""
        words = int(limit * SHARE_OF_SUMMARY / 2)
        before = f"Summary so far:\n{self.past.summary}\n\n" if self.past.summary else ""
        room = limit - most_tokens([INSTRUCTIONS, READ, REQUEST, before]) - 50  # for what stands around them
        told, count = "", 0
        for exchange in going:
            more = "".join(map(_told, exchange.messages))
            if count and most_tokens([told + more]) > room:
                break
            told, count = told + more, count + 1
        messages: list[ProviderMessage] = [
            {"role": "system", "content": INSTRUCTIONS},
            {"role": "user", "content": before + _within(told, max(room, 1))},
            {"role": "assistant", "content": READ},
            {"role": "user", "content": REQUEST.format(words)},
        ]
        return replace(request, messages=messages, tools=()), count


async def _ask(client: ModelClient, request: ModelRequest, budget: Budget) -> tuple[str, Usage, str]:
    """The text, what it used and who wrote it. Raises ModelError, also for a text that says nothing; TimeoutError once
    it takes as long as a model may stay silent.

    Whatever ends it early, a stop too: what came until then is counted.
    """
    said: list[str] = []
    end: Finished | None = None
    try:
        async with asyncio.timeout(request.stall), aclosing(client(request)) as deltas:
            async for delta in deltas:
                if isinstance(delta, Said):
                    said.append(delta.text if delta.kind == "text" else "")
                elif isinstance(delta, Finished):
                    end = delta
        text = "".join(said).strip()
        if end is None or not text:
            raise ModelError("no_summary", "The model gave no summary.")
    except BaseException:
        if end or said:
            budget.unrecorded += _usage(request, said, end)
        raise
    return text, _usage(request, said, end), end.model


def _usage(request: ModelRequest, said: Sequence[str], end: Finished | None) -> Usage:
    if end is not None and (not end.usage.estimated or end.usage.input_tokens):
        return end.usage
    return estimated_usage(request.model, request.messages, [{"text": "".join(said)}])


def _shortened(message: ProviderMessage) -> ProviderMessage:
    content = message.get("content")
    if message["role"] != "tool" or not isinstance(content, str):
        return message
    mark = CUT.format(len(content) - KEPT_OF_OUTPUT)
    if len(content) <= KEPT_OF_OUTPUT + len(mark) + 1:
        return message
    return {**message, "content": f"{content[:KEPT_OF_OUTPUT]}\n{mark}"}


def _within(text: str, tokens: int) -> str:
    """Without its middle, where it is longer."""
    data = text.encode(errors="replace")
    most = tokens * 3
    if len(data) <= most:
        return text
    mark = CUT.format(len(text) * (len(data) - most) // len(data))
    half = max(0, most - len(mark)) // 2
    return f"{data[:half].decode(errors='ignore')}\n{mark}\n{data[len(data) - half :].decode(errors='ignore')}"


def _told(message: ProviderMessage) -> str:
    """A message as a line or more of a report."""
    message = _shortened(message)
    lines = [f"{message['role'].capitalize()}: {message['content']}"] if message.get("content") else []
    called = [call["function"] for call in message.get("tool_calls", ())]
    lines += [f"Assistant called {function['name']} with {function['arguments']}" for function in called]
    return "".join(f"{line}\n\n" for line in lines)
