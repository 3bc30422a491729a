"""Whether those who follow a stream still may: asked again while it is open, for all streams of the process at once.

Source: `docs/security.md`, SEC-3.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Collection
from contextlib import aclosing
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import UUID
from weakref import WeakSet

import structlog
from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.contrib.sessions.models import Session
from django.db import DatabaseError, connection
from django.db.models import F, Q
from django.db.models.functions import Now
from django.utils.crypto import constant_time_compare
from rest_framework.request import Request

from chat.models import Chat, Token
from runs.errors import BrokenOff

logger = structlog.get_logger(__name__)

CHECK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Pass:
    """What a request was let in with, a token or a session, and the chat it looks into, if it is one."""

    user_id: int
    token_id: UUID | None
    session_key: str | None
    chat_id: UUID | None


def pass_of(request: Request, chat_id: UUID | None) -> Pass:
    token_id = request.auth.pk if isinstance(request.auth, Token) else None
    session_key = None if token_id else request._request.session.session_key
    user: Any = request.user
    return Pass(user.pk, token_id, session_key, chat_id)


def valid(passes: Collection[Pass]) -> set[Pass]:
    """Those that would be let in now. A few queries, however many they are. Raises DatabaseError."""
    users = get_user_model().objects.filter(is_active=True).in_bulk({each.user_id for each in passes})
    unexpired = Q(expiry=None) | Q(expiry__gt=Now())
    tokens = set(Token.objects.filter(unexpired, pk__in={each.token_id for each in passes}).values_list("pk", "user"))
    sessions = {
        session.session_key: session.get_decoded()
        for session in Session.objects.filter(
            session_key__in={each.session_key for each in passes}, expire_date__gt=Now()
        )
    }
    chats = set(
        Chat.objects.filter(
            pk__in={each.chat_id for each in passes}, workspace__memberships__user=F("created_by")
        ).values_list("pk", "created_by")
    )

    def is_valid(each: Pass) -> bool:
        user = users.get(each.user_id)
        if user is None or (each.chat_id and (each.chat_id, each.user_id) not in chats):
            return False
        if each.token_id:
            return (each.token_id, each.user_id) in tokens
        return _is_of(user, sessions.get(each.session_key or "", {}))

    return {each for each in passes if is_valid(each)}


def _is_of(user: Any, session: dict[str, Any]) -> bool:
    """Whether somebody is logged in there as this user, with the password that the user has now."""
    known = session.get(SESSION_KEY) == str(user.pk)
    return known and constant_time_compare(session.get(HASH_SESSION_KEY, ""), user.get_session_auth_hash())


class _Watch:
    def __init__(self, held: Pass) -> None:
        self.held = held
        self.is_over = False


# Weak: a stream that was lost without an end is watched no more.
_watches: WeakSet[_Watch] = WeakSet()
_lock = threading.Lock()


async def guarded(pieces: AsyncIterator[bytes], held: Pass) -> AsyncIterator[bytes]:
    """The pieces, until the pass is found to be worth nothing: raises BrokenOff then; whoever comes back is told why.
    A stream says something every few seconds, so none stays open for long."""
    watch = _Watch(held)
    with _lock:
        _watches.add(watch)
    _checking()
    async with aclosing(pieces) as open_pieces:  # type: ignore[type-var]
        async for piece in open_pieces:
            if watch.is_over:
                raise BrokenOff
            yield piece


def check() -> None:
    """All streams of this process. Raises DatabaseError."""
    with _lock:
        watches = list(_watches)
    if not watches:
        return
    still = valid({watch.held for watch in watches})
    for watch in watches:
        if watch.held not in still:
            watch.is_over = True


@cache
def _checking() -> threading.Thread:
    """Begins with the first stream of the process, and ends with the process."""
    thread = threading.Thread(target=_check_for_ever, name="stream-guard", daemon=True)
    thread.start()
    return thread


def _check_for_ever() -> None:
    while True:
        time.sleep(CHECK_SECONDS)
        try:
            check()
        except DatabaseError as error:
            # Nobody is shut out for an outage: the next look tells.
            logger.warning("streams_not_checked", error=type(error).__name__)
        finally:
            connection.close()
