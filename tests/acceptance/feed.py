"""A reader of the lifecycle feed, in a thread of its own."""

import json
import threading
from typing import Any, Self

import httpx

from config.processes import wait_until
from tests.acceptance.client import Client


class FeedReader:
    """Follows until it is left; comes back as a browser does when the stream ends."""

    def __init__(self, client: Client) -> None:
        self.events: list[tuple[str, Any]] = []
        self._client = client
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.wait_for("stream-open")
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()

    def statuses(self, run_id: str) -> list[str]:
        return [data["status"] for kind, data in list(self.events) if kind == "run" and data["id"] == run_id]

    def count(self, kind: str) -> int:
        return sum(event[0] == kind for event in list(self.events))

    def wait_for(self, kind: str, *, more_than: int = 0, seconds: float = 20) -> None:
        assert wait_until(lambda: self.count(kind) > more_than, seconds), self.events

    def wait_status(self, run_id: str, status: str, seconds: float = 20) -> None:
        assert wait_until(lambda: status in self.statuses(run_id), seconds), self.events

    def _read(self) -> None:
        while not self._left.is_set():
            try:
                self._read_once()
            except httpx.TransportError:
                self._left.wait(0.5)

    def _read_once(self) -> None:
        timeout = httpx.Timeout(5, read=60)
        with httpx.stream(
            "GET", f"{self._client.address}/api/events", headers=self._client.headers, timeout=timeout
        ) as answer:
            assert answer.status_code == 200
            kind = ""
            for line in answer.iter_lines():
                if self._left.is_set():
                    return
                name, _, value = line.partition(": ")
                if name == "event":
                    kind = value
                elif name == "data" or line == "data:":
                    self.events.append((kind, json.loads(value or "null")))
