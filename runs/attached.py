"""Whose a run is: an attached one belongs to the stream that created it, and is stopped when that goes away.

The process that serves the stream says again and again that it is open (`Attachments.tend`). Once nobody does, the
sweep stops the run: this process may die at any moment. Source: `docs/architecture.md`, "Attached runs".
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from uuid import UUID
from weakref import WeakSet

import structlog
from django.db import DatabaseError
from django.db.models import Q

from runs import heartbeat, lifecycle, stop
from runs.database import TRANSIENT
from runs.models import Run

logger = structlog.get_logger(__name__)

SOURCE = "disconnect"


class CreatorStream:
    """The body of the response to the request that created `run`: its pieces, and what their end means to the run.

    `config.handler` calls `close` when the response is over, in whatever way: read to its end, broken off, dropped by
    its client, or never begun because the client was gone already.
    """

    def __init__(self, run: Run, pieces: AsyncIterator[bytes], attachments: Attachments) -> None:
        self.run = run
        self._pieces = pieces
        self._attachments = attachments
        self._ended = False
        self._broken_off = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._pieces:
                yield piece
        except Exception:  # which a client that goes away is not
            self._broken_off = True
            raise
        self._ended = True

    def close(self) -> None:
        """May be called again. What cannot be written now is left to `Attachments.tend` or the sweep."""
        if not self._attachments.remove(self) or self._ended:
            return
        if self.run.detached:
            logger.info("creator_disconnected", run_id=str(self.run.pk))
        elif self._broken_off or self._attachments.are_released:
            # That was us: the client comes back, and finds its run alive.
            self._attachments.free(self.run)
        else:
            _stop(self.run)


def _stop(run: Run) -> None:
    try:
        stop.request_stop(run.pk, None, SOURCE, only=Q(detached=False))
    except DatabaseError as error:
        # Nobody says any more that its stream is open: the sweep will do it.
        logger.warning("disconnect_not_written", run_id=str(run.pk), error=type(error).__name__)


class Attachments:
    """All streams of this process that created a run."""

    def __init__(self) -> None:
        # Weak: a stream that was lost without being closed must not keep its run alive.
        self._streams: WeakSet[CreatorStream] = WeakSet()
        self._to_free: set[UUID] = set()
        self._lock = threading.Lock()
        self.are_released = False

    def stream_of(self, run: Run, pieces: AsyncIterator[bytes]) -> CreatorStream:
        """For the one response to the request that created the run; never for a further reader."""
        stream = CreatorStream(run, pieces, self)
        with self._lock:
            self._streams.add(stream)
        if self.are_released and not run.detached:
            self.free(run)
        return stream

    def remove(self, stream: CreatorStream) -> bool:
        """False: it was removed before."""
        with self._lock:
            known = stream in self._streams
            self._streams.discard(stream)
        return known

    def tend(self) -> None:
        """To be called once a heartbeat: says that these streams are open, in one statement for all of them.

        Reaches the database even if there are none. Raises DatabaseError.
        """
        with self._lock:
            attached = [stream.run.pk for stream in self._streams if not stream.run.detached]
            if self.are_released:
                self._to_free.update(attached)
            to_free = set(self._to_free)
        heartbeat.renew_attached(attached)
        if to_free:
            lifecycle.detach(to_free)
            with self._lock:
                self._to_free -= to_free

    def free(self, run: Run) -> None:
        """Its stream ends by no fault of its client: the run goes on as a detached one."""
        with self._lock:
            self._to_free.add(run.pk)
        try:
            self.tend()
        except TRANSIENT as error:
            logger.warning("run_not_detached", run_id=str(run.pk), error=type(error).__name__)

    def release(self) -> None:
        """This process is about to end, which is no reason to stop anything: the next `tend`, which must not be long in
        coming, detaches all runs. Only sets a flag: it is called by a signal handler."""
        self.are_released = True


attachments = Attachments()
