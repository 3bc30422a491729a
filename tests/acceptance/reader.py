"""Owns readers of streams, which record what came and when; they can be cut and resumed like a browser's."""

import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, Self

import httpx

from config.processes import wait_until

Json = dict[str, Any]
# How a connection ended: with [DONE], closed without it, broken off by the other side, cut by the test, or no 200.
Ending = Literal["done", "closed", "broken", "cut", "refused"]


@dataclass(frozen=True)
class Event:
    """One frame: its id (None for one made from the row, and for [DONE]), its chunk (None for [DONE]), its time."""

    id: str | None
    chunk: Json | None
    at: float


@dataclass
class Assembly:
    """What a client holds of a message, by the one rule of streams: `start` begins anew."""

    text: str = ""
    reasoning: str = ""
    starts: int = 0
    tools: dict[str, Json] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)

    def take(self, chunk: Json) -> None:
        match chunk["type"]:
            case "start":
                self.text, self.reasoning, self.tools, self.ended = "", "", {}, []
                self.starts += 1
            case "text-delta":
                self.text += chunk["delta"]
            case "reasoning-delta":
                self.reasoning += chunk["delta"]
            case "tool-input-available" | "tool-output-available" | "tool-output-error":
                self.tools.setdefault(chunk["toolCallId"], {}).update(chunk)
            case "finish" | "abort" | "error":
                self.ended.append(chunk["type"])


class Reader:
    """Follows a stream in a thread of its own. May be cut and resumed; a `persistent` one resumes by itself."""

    def __init__(
        self,
        address: str,
        url: str,
        headers: Mapping[str, str],
        *,
        after: str | None = None,
        persistent: bool = False,
    ) -> None:
        self.events: list[Event] = []
        self.endings: list[Ending] = []
        self.pings = 0
        self.refusal: httpx.Response | None = None
        self.address = address
        self._headers = headers
        self._url = url
        self._last_id = after
        self._persistent = persistent
        self._cut = threading.Event()
        self._response: httpx.Response | None = None
        self._start()

    @property
    def message(self) -> Assembly:
        assembly = Assembly()
        for event in list(self.events):
            if event.chunk is not None:
                assembly.take(event.chunk)
        return assembly

    @property
    def text(self) -> str:
        return self.message.text

    @property
    def types(self) -> list[str]:
        return [event.chunk["type"] for event in list(self.events) if event.chunk is not None]

    @property
    def is_done(self) -> bool:
        return "done" in self.endings

    def wait_done(self, seconds: float = 30) -> Self:
        """Until `[DONE]`."""
        return self.wait_for(lambda: self.is_done, seconds)

    def wait_text(self, length: int = 1, seconds: float = 30) -> Self:
        """Until that much of it is there."""
        return self.wait_for(lambda: len(self.text) >= length, seconds)

    def wait_for(self, condition: Callable[[], bool], seconds: float = 30) -> Self:
        if not wait_until(condition, seconds):
            raise AssertionError(f"After {seconds} s: {self.types[-20:]}, endings {self.endings}, {self.refusal}")
        return self

    def cut(self) -> None:
        """Drop the connection, as a closed page does."""
        self._cut.set()
        self._shut()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def resume(self) -> None:
        """Connect again, behind the last event that had an id."""
        assert not self._thread.is_alive(), "it still reads"
        self._start()

    def gaps(self) -> list[str]:
        """Each pair of neighbours where the later is neither the successor of the earlier nor a `start`."""
        identified = [event for event in list(self.events) if event.id is not None]
        return [
            f"{earlier.id} -> {later.id}"
            for earlier, later in pairwise(identified)
            if later.chunk and later.chunk["type"] != "start" and successor(earlier.id) != later.id
        ]

    def _start(self) -> None:
        self._cut.clear()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while True:
            ending = self._read_once()
            self.endings.append(ending)
            if ending not in ("broken", "closed") or not self._persistent:
                return
            if self._cut.wait(0.2):
                return

    def _read_once(self) -> Ending:
        headers = {**self._headers, **({"Last-Event-ID": self._last_id} if self._last_id else {})}
        timeout = httpx.Timeout(10, read=60)
        try:
            with (
                # Loading certificates that plain http never uses would cost more than all the rest.
                httpx.Client(
                    base_url=self.address, headers=headers, timeout=timeout, trust_env=False, verify=False
                ) as http,
                http.stream("GET", self._url) as response,
            ):
                return self._take(response)
        except httpx.TransportError:
            return "cut" if self._cut.is_set() else "broken"

    def _take(self, response: httpx.Response) -> Ending:
        if response.status_code != 200:
            response.read()
            self.refusal = response
            return "refused"
        self._response = response
        if self._cut.is_set():
            return "cut"
        identifier: str | None = None
        for line in response.iter_lines():
            name, _, value = line.partition(": ")
            if line.startswith(":"):
                self.pings += 1
            elif name == "id":
                identifier = value
            elif name == "data":
                self._record(identifier, value)
                identifier = None
                if value == "[DONE]":
                    return "done"
        return "cut" if self._cut.is_set() else "closed"

    def _record(self, identifier: str | None, data: str) -> None:
        chunk = None if data == "[DONE]" else json.loads(data)
        self.events.append(Event(identifier, chunk, time.monotonic()))
        self._last_id = identifier or self._last_id

    def _shut(self) -> None:
        """Closing a file does not wake a thread that reads it; shutting the socket does."""
        if self._response is not None:
            stream = self._response.extensions["network_stream"]
            connection = stream.get_extra_info("socket")
            if isinstance(connection, socket.socket):
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    return


def successor(identifier: str | None) -> str:
    attempt, _, sequence = (identifier or "0-0").partition("-")
    return f"{attempt}-{int(sequence) + 1}"
