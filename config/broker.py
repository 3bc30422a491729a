"""Owns the broker's transport: kombu's Redis, where an entry of a queue that is no message is dropped.

With kombu's own, one entry that is not JSON ends a worker and all it holds, and one that is no envelope its connection.
"""

from __future__ import annotations

from queue import Empty
from typing import Any

import structlog
from kombu.transport import redis

logger = structlog.get_logger(__name__)

# Of what is no JSON, a body that is no base64, or more brackets than the decoder has stack.
UNREADABLE = (ValueError, RecursionError)


# kombu's stubs leave out what is private.
class Channel(redis.Channel):
    def _brpop_read(self, **options: Any) -> Any:
        """The next entry of a queue."""
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]
        except UNREADABLE as error:
            logger.warning("message_ignored", error=type(error).__name__)
            raise Empty from error

    def _receive_one(self, client: Any) -> Any:
        """The next message of a channel, by which operators talk to workers."""
        try:
            return super()._receive_one(client)  # type: ignore[misc]
        except UNREADABLE as error:
            logger.warning("message_ignored", error=type(error).__name__)
            return False


class Transport(redis.Transport):
    Channel = Channel

    def _deliver(self, message: Any, queue: str | None) -> None:
        if is_envelope(message):
            super()._deliver(message, queue)
        else:
            logger.warning("message_ignored", queue=queue)


def is_envelope(message: Any) -> bool:
    """Whether it has what kombu looks up before anybody can refuse the message in good order."""
    match message:
        case {
            "body": str(),
            "headers": dict(),
            "properties": {
                "delivery_tag": str(),
                "delivery_info": {"exchange": str(), "routing_key": str()},
            },
        }:
            return True
    return False
