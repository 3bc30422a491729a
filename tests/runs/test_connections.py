"""The clients of Redis: what redis-py itself gets wrong, and we may not."""

import asyncio
from typing import Any

import pytest
from redis.asyncio import Connection

from runs.connections import async_client


@pytest.mark.usefixtures("redis")
async def test_a_cancel_that_comes_just_when_a_command_is_sent_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    send = Connection._send_packed_command

    async def send_and_cancel(self: Connection, command: Any) -> None:
        await send(self, command)
        asking.cancel()

    async with async_client(timeout=5) as client:
        await client.set("x", "1")
        monkeypatch.setattr(Connection, "_send_packed_command", send_and_cancel)
        asking = asyncio.create_task(client.get("x"))
        with pytest.raises(asyncio.CancelledError):
            await asking
        monkeypatch.undo()
        # and its answer is nobody else's
        assert await client.get("y") is None
