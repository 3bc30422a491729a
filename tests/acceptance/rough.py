"""Owns a rough way to the service: an API that is busy, cuts its stream anywhere, and ends it in every wrong way."""

import json
import socket
import struct
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Json = dict[str, Any]

# Characters of two to four bytes, and two that end a line elsewhere than in server-sent events.
TEXT = "tök 🙂\u2028ток\u0085 end"
HALF = len(TEXT) // 2
STATUS = "succeeded"


def frame(chunk: Json, identifier: str = "") -> bytes:
    name = f"id: {identifier}\n" if identifier else ""
    return f"{name}data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode()


def delta(text: str) -> Json:
    return {"type": "text-delta", "id": "t", "delta": text}


START = {"type": "start", "messageId": "m"}
# Each connection of the stream, in the order they are made: what it sends, and whether it is reset in the end.
CONNECTIONS = [
    # one that is half a message, whose last event is cut: closed in good order, but without [DONE]
    (b": ping\n\n" + frame(START, "1-1") + frame(delta(TEXT[:HALF]), "1-2") + frame(delta("never"), "1-3")[:-1], False),
    # one that goes on there, then has to begin anew from the row: its events have no id
    (frame(delta(TEXT[HALF:]), "1-3") + frame(START) + frame(delta("another")), True),
    # the message of a later attempt
    (frame(START, "2-1") + frame(delta(TEXT), "2-2") + frame({"type": "finish"}, "2-3") + b"data: [DONE]\n\n", False),
]


@dataclass(frozen=True)
class Request:
    """What came: method and path, the header in question (if any), and when."""

    line: str
    header: str | None
    at: float


class RoughServer:
    """Serves one run to one client."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def sent(self, line: str) -> list[Request]:
        return [request for request in self.requests if request.line == line]


def handler(server: RoughServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            times = self.note("Idempotency-Key")
            if self.path == "/api/chats":
                self.answer(201, {"id": "c"})
            elif times == 1:
                self.answer(429, {"code": "RATE_LIMITED"}, {"Retry-After": "1"})
            elif times == 2:
                self.answer(503, {"code": "UNAVAILABLE"})
            else:
                self.answer(202, {"id": "r", "chat_id": "c", "stream_url": "/api/runs/r/stream"})

        def do_GET(self) -> None:
            times = self.note("Last-Event-ID")
            if self.path == "/api/runs/r/stream":
                self.stream(*CONNECTIONS[times - 1])
            else:
                self.answer(200, {"run": {"status": STATUS}, "message": {"text": TEXT}})

        def note(self, header: str) -> int:
            """How often this was asked, with this time."""
            line = f"{self.command} {self.path}"
            server.requests.append(Request(line, self.headers[header], time.monotonic()))
            return len(server.sent(line))

        def answer(self, status: int, body: Json, headers: Json | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def stream(self, data: bytes, is_reset: bool) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for byte in data:
                self.wfile.write(bytes([byte]))
                time.sleep(0.0003)  # so that each comes alone
            if is_reset:
                time.sleep(0.1)  # a reset discards what has not been read yet
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

        def log_message(self, *_: object) -> None:
            """Not on the tests' stderr."""

    return Handler
