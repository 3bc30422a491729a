"""The lifecycle feed of a person, told: small events on each change of a run of theirs and each new title of a chat.

A hint, and best effort throughout: whoever follows it reads again what it cares about. `runs.feed_stream` is the
other end.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import structlog
from django.db import connection, transaction
from django.db.models import F

from chat.models import Chat
from runs.connections import REDIS_ERRORS, control
from runs.database import TRANSIENT
from runs.models import Run

logger = structlog.get_logger(__name__)

CHANNEL = "feed"
KINDS = ("run", "title")
# Told to everybody: some events were lost, so read again what you show.
LOST = json.dumps({"event": "lost"})
# While nobody takes them, no more events wait than this.
MOST_WAITING = 1000
# Between two attempts to say that some were lost.
RETRY_SECONDS = 1.0

Change = tuple[str, UUID]
"""`run` and its id, or `title` and the id of the chat."""


def run_changed(*run_ids: UUID) -> None:
    """To be said within the transaction that changes them. Costs its caller nothing, and never fails."""
    transaction.on_commit(lambda: _announcer.add(("run", run_id) for run_id in run_ids), robust=True)


def title_changed(chat_id: UUID) -> None:
    transaction.on_commit(lambda: _announcer.add([("title", chat_id)]), robust=True)


class Announcer:
    """A thread that looks the changes up and publishes them, one after the other."""

    def __init__(self) -> None:
        self.is_muted = False
        self._lock = threading.Lock()
        self._waiting: list[Change] = []
        self._come = threading.Event()
        self._thread: threading.Thread | None = None
        self._has_lost_some = False

    def add(self, changes: Iterable[Change]) -> None:
        if self.is_muted:
            return
        with self._lock:
            self._waiting += changes
            if len(self._waiting) > MOST_WAITING:
                self._waiting, self._has_lost_some = [], True
            if self._thread is None:
                self._thread = threading.Thread(target=self._announce_for_ever, name="feed", daemon=True)
                self._thread.start()
        self._come.set()

    def _announce_for_ever(self) -> None:
        while True:
            self._come.wait(RETRY_SECONDS if self._has_lost_some else None)
            self._come.clear()
            with self._lock:
                changes, self._waiting = self._waiting, []
                has_lost_some, self._has_lost_some = self._has_lost_some, False
            try:
                if has_lost_some:
                    control().publish(CHANNEL, LOST)
                _publish_through_restart(changes)
            except Exception as error:
                # What could not be told is not told: who follows the feed is told to look again.
                connection.close()
                with self._lock:
                    self._has_lost_some = True
                if not has_lost_some:  # once an outage, however long
                    logger.warning("feed_not_published", error=type(error).__name__, exc_info=_unexpected(error))


_announcer = Announcer()


def _publish_through_restart(changes: list[Change]) -> None:
    """A connection that is kept may be one to a database that was restarted since."""
    try:
        _publish(changes)
    except TRANSIENT:
        connection.close()
        _publish(changes)


def _publish(changes: list[Change]) -> None:
    # Nobody is told of what they may not read any more.
    runs = Run.objects.filter(workspace__memberships__user=F("created_by")).in_bulk(
        {key for kind, key in changes if kind == "run"}
    )
    chats = Chat.objects.filter(workspace__memberships__user=F("created_by")).in_bulk(
        {key for kind, key in changes if kind == "title"}
    )
    if "pool" in connection.settings_dict["OPTIONS"]:
        connection.close()
    pipeline = control().pipeline(transaction=False)
    for kind, key in changes:
        if kind == "run" and (run := runs.get(key)):
            pipeline.publish(CHANNEL, _message(run.created_by_id, kind, told_of(run)))
        elif kind == "title" and (chat := chats.get(key)):
            pipeline.publish(CHANNEL, _message(chat.created_by_id, kind, {"chat_id": str(key), "title": chat.title}))
    pipeline.execute()


def told_of(run: Run) -> dict[str, Any]:
    """The data of a `run` event: the row as it is when the event is sent, which may be ahead of the change."""
    return {
        "id": str(run.pk),
        "chat_id": str(run.chat_id),
        "status": run.status,
        "step_count": run.step_count,
        "end_reason": run.end_reason or None,
    }


def _message(user_id: int | None, kind: str, data: dict[str, Any]) -> str:
    return json.dumps({"user_id": user_id, "event": kind, "data": data})


def _unexpected(error: Exception) -> Exception | None:
    return None if isinstance(error, REDIS_ERRORS) else error
