"""A TCP proxy in front of one server, through which a test makes the network fail."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable
from typing import Self

from config.processes import free_port

CHUNK = 64 * 1024
# A host and port, or the path of a Unix socket.
Target = tuple[str, int] | str


class Proxy:
    """Listens on 127.0.0.1 and passes on to `target` until it is told otherwise; a fault holds until `pass_on`.

    It lives on an event loop in a thread of its own. `connections` counts all that were ever made.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.port = free_port()
        self.connections = 0
        self.pause = 0.0
        self.swallows = False
        self.trap: Trap | None = None
        self.links: set[Link] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def start(self) -> Self:
        self._thread.start()
        self.pass_on()
        return self

    def stop(self) -> None:
        if self._thread.is_alive():
            self.refuse()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def pass_on(self) -> None:
        """No fault any more. Connections that lost bytes are reset: nothing on them makes sense from there on."""

        async def pass_on() -> None:
            self.swallows, self.pause, self.trap = False, 0.0, None
            self._reset(lambda link: link.lost_bytes)
            if self._server is None:
                self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=1024)

        self._run(pass_on)

    def swallow(self) -> None:
        """A black hole: connections stay open, new ones are made, and no byte comes through either way."""
        self.swallows = True

    def delay(self, seconds: float) -> None:
        """Every piece of data waits so long."""
        self.pause = seconds

    def refuse(self) -> None:
        """Nobody listens, and what was open is reset."""

        async def refuse() -> None:
            if self._server is not None:
                self._server.close()
                self._server = None
            self._reset()

        self._run(refuse)

    def reset(self) -> None:
        """Every open connection ends in a TCP reset. New ones are made as before."""

        async def reset() -> None:
            self._reset()

        self._run(reset)

    def lose_reply(self, *said: bytes) -> Trap:
        """The first connection on which a client says all of these, one after the other, loses the server's answer to
        the last: the server has done what it was asked, and the client sees a reset."""
        self.trap = Trap(said)
        return self.trap

    def _run(self, work: Callable[[], object]) -> None:
        asyncio.run_coroutine_threadsafe(work(), self._loop).result(10)  # type: ignore[arg-type]

    def _reset(self, which: Callable[[Link], bool] = lambda link: True) -> None:
        for link in filter(which, list(self.links)):
            link.reset()

    async def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.connections += 1
        link = Link(self, reader, writer)
        self.links.add(link)
        try:
            await link.serve()
        finally:
            self.links.discard(link)


class Trap:
    """What a client has to say for the answer to be lost; `sprung` is set once it was."""

    def __init__(self, said: tuple[bytes, ...]) -> None:
        self.sprung = threading.Event()
        self._said = said
        self._heard: dict[Link, bytearray] = {}

    def is_sprung_by(self, link: Link, data: bytes) -> bool:
        """Whether the link has said it all, with this, since the trap was set."""
        heard = self._heard.setdefault(link, bytearray())
        heard += data
        position = 0
        for words in self._said:
            position = heard.find(words, position) + len(words)
            if position < len(words):
                return False
        return True


class Link:
    """One connection through the proxy, and the one behind it."""

    def __init__(self, proxy: Proxy, reader: StreamReader, writer: StreamWriter) -> None:
        self.lost_bytes = False
        self._proxy = proxy
        self._client = reader, writer
        self._server: tuple[StreamReader, StreamWriter] | None = None
        self._trapped_by: Trap | None = None
        self._over = asyncio.Event()

    async def serve(self) -> None:
        try:
            await self._connect()
            pumps = [asyncio.create_task(pump) for pump in (self._ask(), self._answer(), self._over.wait())]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            self.reset()
        for _, writer in filter(None, (self._client, self._server)):
            writer.close()

    def reset(self) -> None:
        for _, writer in filter(None, (self._client, self._server)):
            # Closing with an empty linger sends RST instead of FIN.
            if (end := writer.get_extra_info("socket")).family == socket.AF_INET:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        self._over.set()

    async def _connect(self) -> None:
        if self._proxy.swallows:
            self.lost_bytes = True
            await self._over.wait()
        elif isinstance(self._proxy.target, str):
            self._server = await asyncio.open_unix_connection(self._proxy.target)
        else:
            self._server = await asyncio.open_connection(*self._proxy.target)

    async def _ask(self) -> None:
        assert self._server is not None
        while data := await self._read(self._client[0]):
            if (trap := self._proxy.trap) is not None and trap.is_sprung_by(self, data):
                self._trapped_by, self._proxy.trap = trap, None
            await self._write(self._server[1], data)

    async def _answer(self) -> None:
        assert self._server is not None
        while data := await self._read(self._server[0]):
            if self._trapped_by is not None:
                self._trapped_by.sprung.set()
                self.reset()
                return
            await self._write(self._client[1], data)

    async def _read(self, reader: StreamReader) -> bytes:
        """What is to be passed on; empty when the connection is over, of which nobody learns through a hole."""
        while True:
            try:
                data = await reader.read(CHUNK)
            except OSError:
                data = b""
            if self._proxy.swallows:
                self.lost_bytes = True
            if not self.lost_bytes:
                return data
            if not data:
                await self._over.wait()
                return b""

    async def _write(self, writer: StreamWriter, data: bytes) -> None:
        if self._proxy.pause:
            await asyncio.sleep(self._proxy.pause)
        writer.write(data)
        try:
            await writer.drain()
        except OSError:
            self._over.set()
