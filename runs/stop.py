"""Stopping a run: the column first, then a message to whichever worker holds it; and the worker's ear for that message.

The message is a hint that saves time: the column is what stops, and every heartbeat reads it again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from uuid import UUID

import structlog
from django.db import transaction

from runs import eventlog, journal, lifecycle
from runs.connections import REDIS_ERRORS, async_client, control
from runs.failpoints import failpoint
from runs.models import Run

logger = structlog.get_logger(__name__)

CHANNEL = "runs:stop"
# A listener proves that it hears: a message of its own every PING_SECONDS, heard within HEAR_SECONDS.
PING_SECONDS = 10.0
HEAR_SECONDS = 5.0
FIRST_BACK_OFF, LONGEST_BACK_OFF = 0.1, 1.0


def request_stop(run_id: UUID, user_id: int | None, source: str) -> lifecycle.StopAnswer | None:
    """Asks for a stop on behalf of somebody who may. None: there is no such run."""
    with transaction.atomic():
        answer = lifecycle.request_stop(run_id, user_id, source)
        if answer is not None and not answer.run.is_terminal:
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


async def listen(name: str, on_stop: Callable[[UUID], None], on_connect: Callable[[], Awaitable[None]]) -> None:
    """Calls `on_stop` for every message; for ever, through every outage.

    `on_connect` is awaited after each subscription: messages sent while nobody listened are lost, the rows are not.
    """
    back_off = FIRST_BACK_OFF
    while True:
        try:
            async with async_client(timeout=PING_SECONDS + HEAR_SECONDS) as client, client.pubsub() as pubsub:
                await pubsub.subscribe(CHANNEL, f"{CHANNEL}:{name}")
                await on_connect()
                back_off = FIRST_BACK_OFF
                await _hear(client, pubsub, f"{CHANNEL}:{name}", on_stop)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            # Whatever it was: a worker that cannot hear falls back to its heartbeat, and tries again.
            if back_off == FIRST_BACK_OFF:  # once an outage, however long
                logger.warning("stop_listener_down", error=type(error).__name__)
        await asyncio.sleep(back_off)
        back_off = min(back_off * 2, LONGEST_BACK_OFF)


async def _hear(client, pubsub, own_channel: str, on_stop: Callable[[UUID], None]) -> None:  # type: ignore[no-untyped-def]
    """Raises when the connection is gone, or only looks alive (half-open)."""
    loop = asyncio.get_running_loop()
    ping_at, heard_by = loop.time() + PING_SECONDS, None
    while True:
        now = loop.time()
        if heard_by is not None and now >= heard_by:
            raise TimeoutError("the listener does not hear itself")
        if heard_by is None and now >= ping_at:
            await client.publish(own_channel, "ping")
            heard_by = now + HEAR_SECONDS
        wait = (heard_by if heard_by is not None else ping_at) - now
        message = await pubsub.get_message(timeout=max(wait, 0.01))
        if message is None or message["type"] != "message":
            continue
        if message["channel"] == own_channel.encode():
            ping_at, heard_by = loop.time() + PING_SECONDS, None
        elif run_id := _run_id(message["data"]):
            on_stop(run_id)


def _run_id(data: bytes) -> UUID | None:
    """None for garbage: whoever can reach Redis can publish."""
    try:
        return UUID(json.loads(data)["run_id"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        logger.warning("stop_message_ignored", size=len(data))
        return None
