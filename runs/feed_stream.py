"""The lifecycle feed of a person, followed: server-sent events by django-eventstream, behind a listener of our own.

The library's listener is not used: after an outage of Redis it is dead for its process. Nor is a store of events:
whoever comes back, lagged behind, or was connected while the listener was not, gets `stream-reset` and reads again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any
from uuid import uuid4

import structlog
from django_eventstream.channelmanager import ChannelManagerBase
from django_eventstream.event import Event
from django_eventstream.eventrequest import EventRequest
from django_eventstream.storage import EventDoesNotExist, StorageBase
from django_eventstream.views import Listener, get_listener_manager, stream

from runs.feed import CHANNEL, KINDS, LOST
from runs.subscription import Subscription

logger = structlog.get_logger(__name__)

# Whoever follows for so long comes back and proves again that they may; a browser does so by itself.
LONGEST_SECONDS = 900.0
# There is one id, of the last event that was lost to whoever asks for what came behind it.
ID = 0


class OwnChannel(ChannelManagerBase):  # type: ignore[misc]
    """Each person reads the one channel of theirs."""

    def can_read_channel(self, user: Any, channel: str) -> bool:
        return user is not None and channel == channel_of(user.pk)

    def is_channel_reliable(self, channel: str) -> bool:
        return True


class Forgetful(StorageBase):  # type: ignore[misc]
    """Keeps nothing. Asked for what came behind an event, it says that this is not known any more: the library tells
    its client so with `stream-reset`."""

    def get_current_id(self, channel: str) -> int:
        return ID

    def get_events(self, channel: str, last_id: int, limit: int = 100) -> list[Event]:
        raise EventDoesNotExist("nothing is kept", ID)


def channel_of(user_id: Any) -> str:
    return f"user-{user_id}"


def last_event_id(user_id: Any) -> str:
    """What a client that heard anything sends when it comes back."""
    return f"{channel_of(user_id)}:{ID}"


async def events(user: Any, *, comes_back: bool) -> AsyncIterator[bytes]:
    """The body of the response, a keep-alive every 20 s; ends after LONGEST_SECONDS."""
    _ear().start()
    channel = channel_of(user.pk)
    request = EventRequest()
    request.user, request.channels, request.is_next = user, {channel}, False
    request.channel_last_ids = {channel: str(ID)} if comes_back else {}
    listener = Listener()
    listener.user_id, listener.channels = user.pk, {channel}
    until = asyncio.get_running_loop().time() + LONGEST_SECONDS
    async with aclosing(stream(request, listener)) as pieces:
        async for piece in pieces:
            if piece:
                yield piece.encode()
            # From here on nothing is lost without a word, not even between the library's first two looks.
            request.channel_last_ids = {channel: str(ID)}
            if asyncio.get_running_loop().time() > until:
                return


class _Ear:
    """The one listener of an event loop, from the first follower on."""

    def __init__(self) -> None:
        self._subscription = Subscription(CHANNEL, str(uuid4()), _pass_on, _missed_some)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._subscription.run())

    def silence(self) -> float | None:
        return self._subscription.silence()


_ears: dict[int, tuple[asyncio.AbstractEventLoop, _Ear]] = {}


def _ear() -> _Ear:
    loop = asyncio.get_running_loop()
    known = _ears.get(id(loop))
    if known is None or known[0] is not loop:
        known = _ears[id(loop)] = (loop, _Ear())
    return known[1]


def silence() -> float | None:
    """Seconds since the process' listener last proved that it hears; None while nobody ever followed."""
    return min((round(known, 1) for _, ear in _ears.values() if (known := ear.silence()) is not None), default=None)


def _pass_on(data: bytes) -> None:
    """Whoever can reach Redis can publish: garbage is passed over."""
    if data == LOST.encode():
        _reset_all()
        return
    try:
        message = json.loads(data)
        channel, kind, told = channel_of(int(message["user_id"])), message["event"], json.dumps(message["data"])
        if kind not in KINDS:
            raise ValueError(kind)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        logger.warning("feed_message_ignored", size=len(data))
        return
    get_listener_manager().add_to_queues(channel, Event(channel, kind, told, id=ID))


async def _missed_some() -> None:
    _reset_all()


def _reset_all() -> None:
    """Everybody who is connected may have missed something."""
    manager = get_listener_manager()
    with manager.lock:
        listeners = {listener for listeners in manager.listeners_by_channel.values() for listener in listeners}
        for listener in listeners:
            listener.overflow = True
            listener.wake_threadsafe()
