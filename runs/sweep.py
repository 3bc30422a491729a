"""The staleness-windowed sweep: runs whose worker died go on elsewhere or are ended, lost messages are sent again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

import structlog
from django.conf import settings
from django.db.models import Q

from runs import dispatch, eventlog, journal, lifecycle
from runs.ending import WORKER_LOST, stopped
from runs.errors import LeaseLost
from runs.failpoints import failpoint
from runs.lifecycle import Held
from runs.models import EarlyStop, Run, RunQuerySet, abandoned_for
from runs.roles import RoleSettings
from runs.stop import request_stop

logger = structlog.get_logger(__name__)

BATCH = 500
HOLDER = "sweep"
# A window in which everybody has been silent: no worker of this installation is alive.
NO_WINDOW = -1e9


@dataclass(slots=True)
class Swept:
    """What one sweep did, as run ids."""

    rescued: list[UUID] = field(default_factory=list)
    ended: list[UUID] = field(default_factory=list)
    sent: list[UUID] = field(default_factory=list)
    orphaned: list[UUID] = field(default_factory=list)
    abandoned: list[UUID] = field(default_factory=list)


def sweep(runs: RunQuerySet | None = None, window_seconds: float | None = None) -> Swept:
    """Sweeps these runs, or all. `window_seconds` is the silence after which a worker is thought dead.

    Any number of sweeps may run at once: each row is taken by one of them.
    """
    runs = Run.objects.all() if runs is None else runs
    window = settings.RUN_STALE_SECONDS if window_seconds is None else window_seconds
    swept = Swept()
    stale = runs & Run.objects.stale(window)
    for run in (runs & Run.objects.active()).filter(created_by=None, stop_requested_at=None)[:BATCH]:
        _each(swept.orphaned, run, _stop_orphan)
    for run in (runs & Run.objects.abandoned(window))[:BATCH]:
        _each(swept.abandoned, run, lambda run: _stop_abandoned(run, window))
    for run in stale.filter(_hopeless()).order_by("heartbeat_at")[:BATCH]:
        _each(swept.ended, run, end)
    if _in_batches(lambda: lifecycle.rescue(stale.exclude(_hopeless()), BATCH), swept.rescued):
        unsent = runs & Run.objects.unsent(settings.RUN_SWEEP_SECONDS)
        _in_batches(lambda: lifecycle.send_again(unsent, BATCH), swept.sent)
    lifecycle.forget_keys(runs)
    EarlyStop.objects.expired().delete()
    if swept.rescued or swept.ended or swept.sent or swept.orphaned or swept.abandoned:
        logger.warning(
            "swept",
            rescued=len(swept.rescued),
            ended=len(swept.ended),
            sent=len(swept.sent),
            orphaned=len(swept.orphaned),
            abandoned=len(swept.abandoned),
        )
    return swept


def _hopeless() -> Q:
    """Not to be tried again: somebody wants it stopped, or it has taken enough workers with it."""
    return Q(stop_requested_at__isnull=False) | Q(lost_attempts__gte=settings.RUN_MAX_ATTEMPTS - 1)


def _in_batches(take: Callable[[], list[Held]], taken: list[UUID]) -> bool:
    """False: Redis is away, and the rest is left to a later sweep."""
    while True:
        batch = take()
        failpoint("in_sweep_between")
        taken += [run_id for run_id, _ in batch]
        if not _send_all(batch):
            return False
        if len(batch) < BATCH:
            return True


def _send_all(batch: list[Held]) -> bool:
    """Stops at the first that Redis does not take: each further one would wait as long."""
    for position, (run_id, attempt) in enumerate(batch):
        if not (eventlog.fence(run_id, attempt) and dispatch.send(run_id, attempt)):
            lifecycle.note_unsent(batch[position:])
            return False
    return True


def _each(done: list[UUID], run: Run, work: Callable[[Run], bool]) -> None:
    """One row that cannot be settled must not keep the others from it."""
    try:
        if work(run):
            done.append(run.pk)
    except Exception:
        logger.exception("sweep_failed", run_id=str(run.pk))


def _stop_orphan(run: Run) -> bool:
    """Whoever asked for it was deleted."""
    return request_stop(run.pk, None, "orphaned") is not None


def _stop_abandoned(run: Run, window: float) -> bool:
    """The process is gone that served the stream which owns the run; or it is back, or has let go of the run, since the
    row was read."""
    answer = request_stop(run.pk, None, "disconnect", only=abandoned_for(window))
    return answer is not None and answer.took_effect


def end(run: Run) -> bool:
    """Settles a run whose worker is gone, with what it had said. False: it moved on meanwhile.

    If this process dies on the way, the run is stale again after a window, and is ended by the next sweep.
    """
    taken = lifecycle.take_over(run, HOLDER)
    if taken is None:
        return False
    failpoint("in_sweep_between")
    eventlog.fence(taken.pk, taken.attempt)
    # Behind the fence nobody adds to it any more.
    transcript = journal.message_of(taken, eventlog.read_last(taken.pk, before=taken.attempt))
    ending = stopped(taken.stop_source) if taken.stop_requested_at else WORKER_LOST
    asked = journal.history(taken, RoleSettings.of(taken).instructions)
    interrupted = journal.interrupted_usage(taken, transcript, asked)
    taken.count(interrupted)
    closed = journal.closed(taken, transcript, ending)
    try:
        lifecycle.settle(taken, ending, closed.parts, closed.metadata, interrupted)
    except LeaseLost:
        return False
    eventlog.write_whole(taken.pk, taken.attempt, closed.chunks)
    return True


def heal(chat_id: UUID) -> None:
    """Sweeps one chat, for somebody who wants to talk in it now."""
    sweep(Run.objects.filter(chat=chat_id))


def candidates(window_seconds: float) -> RunQuerySet:
    """What a sweep would take, for a dry run."""
    return Run.objects.stale(window_seconds) | Run.objects.unsent(settings.RUN_SWEEP_SECONDS)
