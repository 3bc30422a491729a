"""Owns the load: one asyncio client of the API, cheap enough to share a machine with what it measures."""

import asyncio
import time
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple, Self, TypeVar

import aiohttp
import orjson

from agents.demo.scripts import token
from tests.acceptance.reader import Assembly, successor

Json = dict[str, Any]
T = TypeVar("T")

# uvicorn closes an idle connection after 5 s; we do before.
KEEP_ALIVE_SECONDS = 3.0
CHATS_AT_ONCE = 8
TEXT = b'"type":"text-delta"'


class Refused(AssertionError):
    """An answer with a status that no measurement asks for."""


class Frame(NamedTuple):
    """One frame of a stream; `chunk` is None in `[DONE]`."""

    at: float
    id: str | None
    chunk: Json | None


@dataclass(slots=True)
class Reading:
    """What a reader got and when: raw, and understood only when nothing is being measured any more."""

    opened_at: float = 0.0
    first_text_at: float | None = None
    ended_at: float = 0.0
    _frames: list[tuple[float, bytes]] = field(default_factory=list)
    _rest: bytes = b""

    def take(self, piece: bytes) -> None:
        now = time.time()
        *whole, self._rest = (self._rest + piece).split(b"\n\n")
        for frame in whole:
            self._frames.append((now, frame))
            if self.first_text_at is None and TEXT in frame:
                self.first_text_at = now
        self.ended_at = now

    def frames(self) -> Iterator[Frame]:
        for at, raw in self._frames:
            fields = dict(line.split(b": ", 1) for line in raw.split(b"\n"))
            if data := fields.get(b"data"):
                chunk = None if data == b"[DONE]" else orjson.loads(data)
                yield Frame(at, fields[b"id"].decode() if b"id" in fields else None, chunk)

    def fault(self, tokens: int) -> str | None:
        """What is wrong with the stream of a run that says so many tokens; None for nothing."""
        frames = list(self.frames())
        if not frames or frames[-1].chunk is not None:
            return f"a stream broke off after {len(frames)} frames"
        assembly = Assembly()
        for frame in frames[:-1]:
            assembly.take(frame.chunk or {})
        if assembly.ended != ["finish"]:
            return f"a stream ended with {assembly.ended}"
        if assembly.text != text_of(tokens):
            return f"a stream of {tokens} tokens has another text, of {len(assembly.text)} characters"
        ids = [frame.id for frame in frames if frame.id]
        gap = next((pair for pair in pairwise(ids) if successor(pair[0]) != pair[1]), None)
        return f"a stream goes from {gap[0]} to {gap[1]}" if gap else None


@dataclass(slots=True)
class Turn:
    """A run somebody asked for and read."""

    asked_at: float
    run: Json
    reading: Reading

    @property
    def seconds(self) -> float:
        """From the request to the last byte of the stream."""
        return self.reading.ended_at - self.asked_at

    @property
    def first_text(self) -> float:
        """Seconds until there was any."""
        assert self.reading.first_text_at is not None, "a run without text"
        return self.reading.first_text_at - self.asked_at


class Api:
    """One user's client, and the demo model's record of what it was asked."""

    def __init__(self, address: str, token: str, model_address: str) -> None:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS)
        timeout = aiohttp.ClientTimeout(total=None, sock_read=30)
        self._http = aiohttp.ClientSession(connector=connector, timeout=timeout)
        self._address = address
        self._headers = {"Authorization": f"Token {token}"}
        self._model = model_address

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    async def chats(self, count: int) -> list[str]:
        """New ones: each measured run is the first of its chat."""
        slots = asyncio.Semaphore(CHATS_AT_ONCE)

        async def chat() -> str:
            async with slots:
                return str((await self._ask("POST", "/api/chats", 201, {}))["id"])

        return await together(chat() for _ in range(count))

    async def post_run(self, chat: str, text: str) -> Json:
        return await self._ask("POST", f"/api/chats/{chat}/runs", 202, {"text": text})

    async def stop(self, run_id: str) -> Json:
        return await self._ask("POST", f"/api/runs/{run_id}/stop", 200, {})

    async def active_runs(self) -> list[str]:
        found = [await self._ask("GET", f"/api/runs?limit=200&status={each}", 200) for each in ("pending", "running")]
        return [run["id"] for page in found for run in page["results"]]

    async def read(self, run: Json) -> Reading:
        """The whole stream of a run."""
        reading = Reading()
        async with self._http.get(self._address + run["stream_url"], headers=self._headers) as response:
            if response.status != 200:
                raise Refused(f"GET {run['stream_url']}: {response.status} {await response.text()}")
            reading.opened_at = time.time()
            async for piece in response.content.iter_any():
                reading.take(piece)
        return reading

    async def turn(self, chat: str, text: str) -> Turn:
        """The reader comes when the request was answered."""
        asked_at = time.time()
        run = await self.post_run(chat, text)
        return Turn(asked_at, run, await self.read(run))

    async def calls(self) -> list[Json]:
        """What runs asked the model since `forget_calls`; who wants a title for a chat asks as well."""
        async with self._http.get(f"{self._model}/stats?messages=0") as response:
            return [call for call in (await response.json())["calls"] if call["script"] != "title"]

    async def forget_calls(self) -> None:
        async with self._http.post(f"{self._model}/stats/reset") as response:
            response.raise_for_status()

    async def _ask(self, method: str, path: str, expect: int, body: Json | None = None) -> Json:
        async with self._http.request(method, self._address + path, json=body, headers=self._headers) as response:
            if response.status != expect:
                raise Refused(f"{method} {path}: {response.status} {await response.text()}")
            answer: Json = await response.json()
            return answer


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All at once; the first failure ends the others, and is raised."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def text_of(tokens: int) -> str:
    """What the demo model says."""
    return "".join(token(index).text for index in range(tokens))
