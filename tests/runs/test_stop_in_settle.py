"""A stop at two hundred offsets around the end of a run: one terminal status, and an answer that tells the truth."""

import threading
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from django.db import connection

from agents.llm import Delta, Finished, ModelRequest, Said, Usage
from runs import stop
from runs.lifecycle import StopAnswer
from runs.models import Run
from runs.worker import Worker
from tests.factories import MessageFactory, RunFactory
from tests.runs.conftest import audit, begin, ended, text

pytestmark = pytest.mark.django_db(transaction=True)

OFFSETS = [number / 2000 for number in range(200)]  # seconds behind the model's last word
AT_ONCE = 20


class LastWords:
    """Says one word, and that it did so; the prompt is the run's id."""

    def __init__(self) -> None:
        self.said: dict[UUID, threading.Event] = {}

    async def __call__(self, request: ModelRequest, /) -> AsyncGenerator[Delta, None]:
        yield Said("text", "done")
        self.said[UUID(request.messages[-1]["content"])].set()
        yield Finished("stop", Usage(3, 2), "demo")


@pytest.fixture
def model() -> LastWords:
    return LastWords()


def stop_after(said: threading.Event, run: Run, seconds: float) -> StopAnswer | None:
    try:
        assert said.wait(20)
        threading.Event().wait(seconds)
        return stop.request_stop(run.pk, None, "user")
    finally:
        connection.close()


@pytest.mark.parametrize("first", range(0, len(OFFSETS), AT_ONCE))
def test_a_stop_around_the_end_is_answered_truthfully(worker: Worker, model: LastWords, first: int) -> None:
    offsets = OFFSETS[first : first + AT_ONCE]
    runs = [RunFactory() for _ in offsets]
    for run in runs:
        MessageFactory(chat=run.chat, parts=[{"type": "text", "text": str(run.pk)}])
        model.said[run.pk] = threading.Event()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        stops = [
            pool.submit(stop_after, model.said[run.pk], run, offset) for run, offset in zip(runs, offsets, strict=True)
        ]
        for thread in [begin(worker, run) for run in runs]:
            ended(thread, 20)
        answers = [asked.result() for asked in stops]
    for run, answer in zip(runs, answers, strict=True):
        assert answer is not None
        audit(run)
        assert text(run) in ("", "done")
        # who was told that it is over was told how, and who was not may have come too late for the last step
        assert answer.run.status == (run.status if answer.run.is_terminal else Run.Status.RUNNING)
        assert answer.took_effect == (run.stop_requested_at is not None)
        assert run.status == ("aborted" if run.end_reason == "stopped" else "succeeded")
        assert run.status == "succeeded" or answer.took_effect
