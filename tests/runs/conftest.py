"""A worker of the test's own process, whose model says what the test wants."""

import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import pytest
from pytest_django import Settings

from agents.llm import Delta, Finished, ModelRequest, Said, Usage
from runs import dispatch, eventlog
from runs.models import Run
from runs.transcript import assembled
from runs.worker import Worker

STOP = Finished("stop", Usage(3, 2), "demo")


class Model:
    """Each call plays the next script: deltas, exceptions to raise, and events to wait for (with `reached` set)."""

    def __init__(self) -> None:
        self.scripts: list[list[Any]] = []
        self.requests: list[ModelRequest] = []
        self.open = 0
        self.reached = threading.Event()

    def will(self, *scripts: list[Any]) -> None:
        self.scripts += scripts

    async def __call__(self, request: ModelRequest, /) -> AsyncGenerator[Delta, None]:
        import asyncio

        self.requests.append(request)
        self.open += 1
        try:
            for item in self.scripts.pop(0):
                if isinstance(item, BaseException):
                    raise item
                if item is WAIT:
                    self.reached.set()
                    await asyncio.sleep(60)
                else:
                    yield item
        finally:
            self.open -= 1


WAIT = object()


def says(*words: str) -> list[Any]:
    return [*(Said("text", word) for word in words), STOP]


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, int]]:
    """What was sent to the broker, which has nobody else to hand it to here."""
    messages: list[tuple[Any, int]] = []
    monkeypatch.setattr(dispatch, "send", lambda run_id, attempt: messages.append((run_id, attempt)))
    return messages


@pytest.fixture
def make_worker(model: Model, settings: Settings, sent: list[Any], redis: Any) -> Iterator[Callable[[], Worker]]:
    settings.RUN_HEARTBEAT_SECONDS = 0.2
    settings.RUN_STALE_SECONDS = 1.0
    workers: list[Worker] = []

    def make() -> Worker:
        worker = Worker(f"runs@test-{len(workers)}", model)
        worker.start()
        workers.append(worker)
        return worker

    yield make
    for worker in workers:
        worker.end()


@pytest.fixture
def worker(make_worker: Callable[[], Worker]) -> Worker:
    return make_worker()


def begin(worker: Worker, run: Run, attempt: int = 1) -> threading.Thread:
    thread = threading.Thread(target=worker.execute, args=(run.pk, attempt), daemon=True)
    thread.start()
    return thread


def ended(thread: threading.Thread, seconds: float = 5) -> None:
    thread.join(seconds)
    assert not thread.is_alive()


def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def logged(run: Run) -> list[dict[str, Any]]:
    """The chunks of the row's attempt, as a reader takes them."""
    run.refresh_from_db()
    return [entry.chunk for entry in eventlog.read(run.pk, run.attempt)]


def audit(run: Run) -> Run:
    """Row, message and log of an ended run tell the same."""
    run.refresh_from_db()
    assert run.is_terminal
    message = run.message
    assert message is not None
    message.refresh_from_db()
    chunks = logged(run)
    assert [chunk["type"] for chunk in chunks].count("finish") == 1
    assert chunks[-1]["type"] == "finish"
    told = assembled(str(message.pk), chunks)
    assert told.parts == message.parts
    assert told.metadata == message.metadata
    assert message.metadata["run"] == {"id": str(run.pk), "status": run.status, "endReason": run.end_reason}
    assert message.status == {"succeeded": "completed", "failed": "error", "aborted": "aborted"}[run.status]
    return run


def text(run: Run) -> str:
    assert run.message is not None
    return "".join(part["text"] for part in run.message.parts if part["type"] == "text")
