"""What one worker process owns: the event loop of all its runs, their heartbeat, its stop listener, its log writer, and
the hand-over when it shuts down."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import wait
from typing import Any
from uuid import UUID

import structlog
import uvloop
from django.conf import settings
from django.db import connection

from agents.llm import ModelClient
from runs import dispatch, heartbeat, stop, titles
from runs.database import TRANSIENT, in_thread
from runs.executor import Execution, Interrupt
from runs.lifecycle import Held
from runs.logwriter import LogWriter, RunLog
from runs.models import Run
from runs.witness import witness

logger = structlog.get_logger(__name__)

# After a heartbeat that failed the next one comes sooner: the first thing a worker does with a database that is back.
LONGEST_PAUSE_AFTER_FAILURE = 0.5
# What a loop may take to begin a run, at least, before its message is given to somebody else.
LEAST_PATIENCE = 1.0


class Worker:
    """Started once a process. Celery's threads hand it runs and wait; everything else happens on its loop, but for the
    heartbeat, which has a thread and a connection of its own so that a busy loop cannot lose the leases."""

    def __init__(self, name: str, client: ModelClient) -> None:
        self.name = name
        self._client = client
        # By attempt: the next one of a run may come to this process while the last is on its way out.
        self._live: dict[Held, Execution] = {}
        self._loop = uvloop.new_event_loop()
        self._loop_turned_at = time.monotonic()
        self._writer: LogWriter | None = None
        self._closing = False
        self._ended = threading.Event()
        self._background: set[asyncio.Task[Any]] = set()

    def start(self) -> None:
        ready = threading.Event()
        threading.Thread(target=self._run_loop, args=(ready,), name="runs", daemon=True).start()
        ready.wait()
        threading.Thread(target=self._beat_for_ever, name="heartbeat", daemon=True).start()

    def execute(self, run_id: UUID, attempt: int) -> None:
        """For Celery's threads: returns when this process has nothing more to do with that attempt."""
        if self._closing:
            # It was received too late. The message goes on, the row has not changed.
            dispatch.send(run_id, attempt)
            return
        # Taken by whoever is first: the loop, which begins, or this thread, which gives the message back.
        decision = threading.Lock()
        done = asyncio.run_coroutine_threadsafe(self._execute(run_id, attempt, decision), self._loop)
        wait({done}, timeout=max(settings.RUN_HEARTBEAT_SECONDS, LEAST_PATIENCE))
        if decision.acquire(blocking=False):
            # A loop that does not turn would keep the run to itself, and each message by which the sweep repeats it.
            logger.error("loop_stuck", run_id=str(run_id), attempt=attempt)
            dispatch.send(run_id, attempt)
            return
        done.result()

    def give_title(self, chat_id: UUID) -> None:
        """For Celery's threads; does not wait for it."""
        self._loop.call_soon_threadsafe(lambda: self._spawn(titles.give(self._client, chat_id)))

    def close(self) -> None:
        """Begins the hand-over of all runs. Only sets a flag and wakes the loop: it is called by a signal handler."""
        self._closing = True
        self._loop.call_soon_threadsafe(self._hand_over_all)

    def end(self) -> None:
        """The process is about to exit and holds no run any more."""
        self._ended.set()
        self._loop.call_soon_threadsafe(self._loop.stop)

    def live_runs(self) -> list[dict[str, Any]]:
        """For operators: what this process holds, without a word of what is said in it."""
        held = [execution.run for execution in list(self._live.values()) if execution.run]
        return [
            {
                "run_id": str(run.pk),
                "chat_id": str(run.chat_id),
                "attempt": run.attempt,
                "step_count": run.step_count,
                "started_at": run.started_at.isoformat() if run.started_at else None,
            }
            for run in held
        ]

    def _run_loop(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._writer = LogWriter(self._on_log_lost)
        self._spawn(self._writer.run())
        self._spawn(stop.subscription(self.name, self._on_stop_message, self._reconcile).run())
        self._turn()
        self._loop.call_soon(ready.set)
        self._loop.run_forever()

    def _spawn(self, work: Any) -> None:
        # The loop itself holds tasks weakly.
        task = self._loop.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _turn(self) -> None:
        """Proves to the heartbeat's thread that the loop is alive."""
        self._loop_turned_at = time.monotonic()
        self._loop.call_later(settings.RUN_HEARTBEAT_SECONDS / 4, self._turn)

    async def _execute(self, run_id: UUID, attempt: int, decision: threading.Lock) -> None:
        if not decision.acquire(blocking=False):
            return
        if (run_id, attempt) in self._live:
            logger.info("claim_lost", run_id=str(run_id), attempt=attempt)  # the same message twice
            return
        if self._closing:  # meanwhile
            await in_thread(dispatch.send, run_id, attempt)
            return
        assert self._writer is not None
        # Known before the claim, so that no stop falls between the two.
        execution = self._live[run_id, attempt] = Execution(run_id, attempt, self.name, self._writer, self._client)
        try:
            await execution.execute()
        except TRANSIENT as error:
            # At the claim: the run is pending still, or stale soon.
            logger.warning("run_not_executed", run_id=str(run_id), attempt=attempt, error=type(error).__name__)
        finally:
            del self._live[run_id, attempt]
        if execution.run and execution.is_settled:
            self._spawn(titles.ask_for(execution.run.chat_id))

    # Stops

    def _on_stop_message(self, run_id: UUID) -> None:
        if any(run_id == live for live, _ in self._live):
            self._spawn(self._reconcile([run_id]))

    async def _reconcile(self, run_ids: list[UUID] | None = None) -> None:
        """Asks the rows which of these runs, or of all live ones, somebody wants stopped."""
        run_ids = [run_id for run_id, _ in self._live] if run_ids is None else run_ids
        stopping, gone = await in_thread(_stopping_and_gone, run_ids)
        for run_id, attempt, source in stopping:
            self._interrupt((run_id, attempt), Interrupt.STOP, source)
        for held in [held for held in self._live if held[0] in gone]:
            self._interrupt(held, Interrupt.LEASE_LOST)

    def _interrupt(self, held: Held, reason: Interrupt, source: str = "") -> None:
        execution = self._live.get(held)
        if execution:
            logger.info("run_interrupted", run_id=str(held[0]), attempt=held[1], reason=reason.value)
            execution.interrupt(reason, source)

    def _on_log_lost(self, log: RunLog) -> None:
        self._interrupt((log.run_id, log.attempt), Interrupt.LEASE_LOST)

    # Hand-over

    def _hand_over_all(self) -> None:
        for execution in list(self._live.values()):
            self._spawn(execution.hand_over())

    # Heartbeat

    def _beat_for_ever(self) -> None:
        interval = settings.RUN_HEARTBEAT_SECONDS
        pause, failing, stuck = interval, False, False
        while not self._ended.wait(pause):
            # Stuck is what is stuck twice: a process that was frozen as a whole sees its loop turn again at once.
            was_stuck, stuck = stuck, time.monotonic() - self._loop_turned_at > settings.RUN_STALE_SECONDS
            if stuck:
                pause = min(interval, LONGEST_PAUSE_AFTER_FAILURE)
                if was_stuck:
                    # Nothing of what this process holds moves any more: let others have it.
                    logger.error("loop_stuck", runs=len(self._live))
                    pause = interval
                continue
            try:
                self._beat()
                witness.reached()
                pause, failing = interval, False
            except Exception as error:
                witness.missed()
                connection.close()
                if not failing:  # once an outage, however long
                    logger.warning("heartbeat_failed", runs=len(self._live), error=type(error).__name__)
                pause, failing = min(interval, LONGEST_PAUSE_AFTER_FAILURE), True
        connection.close()

    def _beat(self) -> None:
        beat = heartbeat.beat([held for held, execution in list(self._live.items()) if execution.is_claimed])
        self._loop.call_soon_threadsafe(self._on_beat, beat)

    def _on_beat(self, beat: heartbeat.Beat) -> None:
        for held in beat.lost:
            self._interrupt(held, Interrupt.LEASE_LOST)
        if beat.stopping:
            self._spawn(self._reconcile([run_id for run_id, _ in beat.stopping]))
        if self._writer:
            self._spawn(self._writer.check())


def _stopping_and_gone(run_ids: list[UUID]) -> tuple[list[tuple[UUID, int, str]], set[UUID]]:
    """The running ones that somebody wants stopped, as (run id, attempt, source); and those that were deleted."""
    rows = list(
        Run.objects.filter(pk__in=run_ids).values("pk", "attempt", "status", "stop_requested_at", "stop_source")
    )
    stopping = [row for row in rows if row["status"] == Run.Status.RUNNING and row["stop_requested_at"]]
    found = [(row["pk"], row["attempt"], row["stop_source"]) for row in stopping]
    return found, set(run_ids) - {row["pk"] for row in rows}


_current: Worker | None = None


def start(name: str, client: ModelClient) -> Worker:
    """Makes this process a worker. Once."""
    global _current
    assert _current is None, "this process is a worker already"
    _current = Worker(name, client)
    _current.start()
    return _current


def current() -> Worker:
    assert _current is not None, "this process is no worker"
    return _current
