"""Owns what the measurements share: the installation, its client, its meter, and the faults they come across."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from tests.bench.installation import Installation
from tests.bench.load import Api, Turn, together
from tests.bench.usage import Meter

T = TypeVar("T")

QUIET_SECONDS = 20.0


@dataclass
class Session:
    cluster: Installation
    api: Api
    meter: Meter
    quick: bool
    faults: Counter[str] = field(default_factory=Counter)

    def size(self, full: T, quick: T) -> T:
        return quick if self.quick else full

    async def turns(self, count: int, text: str) -> list[Turn]:
        """So many at once, each in a chat of its own; returns when all were read to their end."""
        chats = await self.api.chats(count)
        return await together(self.api.turn(chat, text) for chat in chats)

    def check(self, turns: Sequence[Turn], tokens: int) -> bool:
        """Whether all of them were read as the model spoke; what is wrong becomes a fault."""
        found = [fault for turn in turns if (fault := turn.reading.fault(tokens))]
        self.faults.update(found)
        return not found

    async def quiet(self) -> None:
        """Nothing runs any more, whatever a measurement left behind. Raises TimeoutError."""
        async with asyncio.timeout(QUIET_SECONDS):
            while active := await self.api.active_runs():
                await together(map(self.api.stop, active))
                await asyncio.sleep(0.2)
