"""The record of what was asked of the demo model and what it sent, for `GET /stats`."""

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import time
from typing import Literal

from agents.demo.wire import JsonObject

Outcome = Literal["open", "finished", "client_closed", "failed"]

# All else that a request says is about how to answer.
NO_SETTINGS = {"model", "messages", "tools", "stream", "stream_options"}

KEPT_CALLS = 5000
KEPT_BYTES = 256 * 1024 * 1024
KEPT_KEYS = 50_000


@dataclass(slots=True)
class Tally:
    """The counts of one key; they outlive its calls."""

    total: int = 0
    open: int = 0
    max_open: int = 0
    dealt: int = 0  # faults handed out under `times`


@dataclass(slots=True)
class Call:
    """One request to the model. The body is kept unparsed: most are never looked at."""

    number: int
    key: str
    tally: Tally
    body: bytes
    opened_at: float
    model: str = ""
    script: str = ""
    step: int = 0
    tools: tuple[str, ...] = ()
    first_chunk_at: float | None = None
    closed_at: float | None = None
    outcome: Outcome = "open"
    error: str | None = None
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)

    def sent(self) -> None:
        if self.first_chunk_at is None:
            self.first_chunk_at = time()

    def deal(self, times: int) -> bool:
        """Whether the call gets the fault: the first `times` calls of a key do, all of them if that is 0."""
        if times and self.tally.dealt >= times:
            return False
        self.tally.dealt += 1
        return True

    def close(self, outcome: Outcome, error: str | None = None) -> None:
        """The first outcome stands: a connection that the script broke off is not one the client closed."""
        if self.closed_at is None:
            self.closed_at, self.outcome, self.error = time(), outcome, error
            self.tally.open -= 1

    def report(self, *, bulky: bool) -> JsonObject:
        fields: JsonObject = {
            "key": self.key,
            "model": self.model,
            "script": self.script,
            "step": self.step,
            "opened_at": self.opened_at,
            "first_chunk_at": self.first_chunk_at,
            "closed_at": self.closed_at,
            "outcome": self.outcome,
            "error": self.error,
        }
        return fields | self._bulk() if bulky else fields

    def _bulk(self) -> JsonObject:
        return {
            "sent_text": "".join(self.text),
            "sent_reasoning": "".join(self.reasoning),
            "messages": self._asked().get("messages"),
            "tools": list(self.tools),
            "settings": {name: value for name, value in self._asked().items() if name not in NO_SETTINGS},
        }

    def _asked(self) -> Mapping[str, object]:
        try:
            request = json.loads(self.body)
        except ValueError:
            return {}
        return request if isinstance(request, Mapping) else {}


class Calls:
    """The last calls, bounded in number and in bytes of their bodies, and a tally for each key."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Calls that are open now go on, unrecorded: they count down tallies that nobody reads any more."""
        self._kept: deque[Call] = deque()
        self._kept_bytes = 0
        self._tallies: dict[str, Tally] = {}
        self._total = 0

    def open(self, key: str, body: bytes, opened_at: float) -> Call:
        tally = self._tally(key)
        tally.total += 1
        tally.open += 1
        tally.max_open = max(tally.max_open, tally.open)
        self._total += 1
        call = Call(self._total, key, tally, body, opened_at)
        self._keep(call)
        return call

    def report(self, key: str | None, *, bulky: bool) -> JsonObject:
        tallies = self._tallies if key is None else {key: self._tallies.get(key, Tally())}
        return {
            "calls": [call.report(bulky=bulky) for call in self._kept if key is None or call.key == key],
            "open": sum(tally.open for tally in tallies.values()),
            "total": self._total if key is None else tallies[key].total,
            "max_open_by_key": {name: tally.max_open for name, tally in tallies.items()},
        }

    def _tally(self, key: str) -> Tally:
        if key not in self._tallies and len(self._tallies) >= KEPT_KEYS:
            del self._tallies[next(iter(self._tallies))]
        return self._tallies.setdefault(key, Tally())

    def _keep(self, call: Call) -> None:
        self._kept.append(call)
        self._kept_bytes += len(call.body)
        while len(self._kept) > KEPT_CALLS or (self._kept_bytes > KEPT_BYTES and len(self._kept) > 1):
            self._kept_bytes -= len(self._kept.popleft().body)
