"""Stopping a run: the column first, then a message to whichever worker holds it; and the worker's ear for that message.

The message is a hint that saves time: the column is what stops, and every heartbeat reads it again.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from uuid import UUID

import structlog
from django.db import transaction
from django.db.models import Q

from runs import eventlog, journal, lifecycle
from runs.connections import REDIS_ERRORS, control
from runs.failpoints import failpoint
from runs.models import Run
from runs.subscription import Subscription

logger = structlog.get_logger(__name__)

CHANNEL = "runs:stop"


def request_stop(
    run_id: UUID, user_id: int | None, source: str, only: Q = lifecycle.ANY
) -> lifecycle.StopAnswer | None:
    """Asks for a stop on behalf of somebody who may, if `only` holds for the run. None: there is no such run."""
    with transaction.atomic():
        answer = lifecycle.request_stop(run_id, user_id, source, only)
        if answer is not None and answer.run.stop_requested_at and not answer.run.is_terminal:
            transaction.on_commit(lambda: _publish(run_id), robust=True)
        elif answer is not None and answer.took_effect:
            ended = answer.run
            transaction.on_commit(lambda: _write_end(ended), robust=True)
    if answer is not None:
        logger.info("stop_requested", run_id=str(run_id), source=source, took_effect=answer.took_effect)
    return answer


def _publish(run_id: UUID) -> None:
    failpoint("in_stop_after_row")
    try:
        control().publish(CHANNEL, json.dumps({"run_id": str(run_id)}))
    except REDIS_ERRORS as error:
        logger.warning("stop_not_published", run_id=str(run_id), error=type(error).__name__)


def _write_end(run: Run) -> None:
    """Followers of a run that was pending: what it had recorded in earlier attempts, and its end."""
    failpoint("in_stop_after_row")
    transcript = journal.transcript_of(run, journal.recorded_steps(run.pk))
    eventlog.write_whole(run.pk, run.attempt, journal.closed(run, transcript).chunks)


def subscription(name: str, on_stop: Callable[[UUID], None], on_connect: Callable[[], Awaitable[None]]) -> Subscription:
    """A worker's ear: `on_stop` hears of every run that somebody wants stopped. `on_connect` has to read the rows: a
    message that was sent while nobody listened is lost, the column is not."""

    def take(data: bytes) -> None:
        if run_id := _run_id(data):
            on_stop(run_id)

    return Subscription(CHANNEL, name, take, on_connect)


def _run_id(data: bytes) -> UUID | None:
    """None for garbage: whoever can reach Redis can publish."""
    try:
        return UUID(json.loads(data)["run_id"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        logger.warning("stop_message_ignored", size=len(data))
        return None
