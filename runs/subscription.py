"""A subscription to a channel of Redis that outlives every outage, and notices a connection that only looks alive."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from runs.connections import async_client

logger = structlog.get_logger(__name__)

# A subscriber proves that it hears: a message of its own every PING_SECONDS, heard within HEAR_SECONDS.
PING_SECONDS = 10.0
HEAR_SECONDS = 5.0
FIRST_BACK_OFF, LONGEST_BACK_OFF = 0.1, 1.0


class Subscription:
    """Calls `on_message` with everything that is published on the channel.

    `on_connect` is awaited after each subscription: what was published while nobody listened is lost. `name` is the
    subscriber's own among all processes.
    """

    def __init__(
        self, channel: str, name: str, on_message: Callable[[bytes], None], on_connect: Callable[[], Awaitable[None]]
    ) -> None:
        self._channel = channel
        self._own_channel = f"{channel}:{name}"
        self._on_message = on_message
        self._on_connect = on_connect
        self._back_off = FIRST_BACK_OFF
        self._heard_at: float | None = None

    def silence(self) -> float | None:
        """Seconds since it last proved that it hears; None if it never did."""
        return None if self._heard_at is None else time.monotonic() - self._heard_at

    async def run(self) -> None:
        """For ever, through every outage."""
        while True:
            try:
                async with async_client(timeout=PING_SECONDS + HEAR_SECONDS) as client, client.pubsub() as pubsub:
                    await pubsub.subscribe(self._own_channel, self._channel)
                    await self._confirmed(pubsub)
                    await self._on_connect()
                    self._back_off = FIRST_BACK_OFF
                    self._hear()
                    await self._listen(client, pubsub)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                # Whatever it was: without this task nobody hears the channel in this process.
                if self._back_off == FIRST_BACK_OFF:  # once an outage, however long
                    logger.warning("subscription_down", channel=self._channel, error=type(error).__name__)
            await asyncio.sleep(self._back_off)
            self._back_off = min(self._back_off * 2, LONGEST_BACK_OFF)

    async def _confirmed(self, pubsub: Any) -> None:
        """Until Redis says so it does not listen, however early it was asked to. The channel is confirmed last, and
        before that nothing comes from it."""
        while True:
            message = await pubsub.get_message(timeout=HEAR_SECONDS)
            if message is None:
                raise TimeoutError("the subscription is not confirmed")
            if message["type"] == "subscribe" and message["channel"] == self._channel.encode():
                return

    def _hear(self) -> None:
        self._heard_at = time.monotonic()

    async def _listen(self, client: Any, pubsub: Any) -> None:
        """Raises when the connection is gone, or only looks alive (half-open)."""
        loop = asyncio.get_running_loop()
        ping_at, heard_by = loop.time() + PING_SECONDS, None
        while True:
            now = loop.time()
            if heard_by is not None and now >= heard_by:
                raise TimeoutError("the listener does not hear itself")
            if heard_by is None and now >= ping_at:
                await client.publish(self._own_channel, "ping")
                heard_by = now + HEAR_SECONDS
            wait = (heard_by if heard_by is not None else ping_at) - now
            message = await pubsub.get_message(timeout=max(wait, 0.01))
            if message is None or message["type"] != "message":
                continue
            if message["channel"] == self._own_channel.encode():
                self._hear()
                ping_at, heard_by = loop.time() + PING_SECONDS, None
            else:
                self._on_message(message["data"])
