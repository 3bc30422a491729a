"""Measures how many runs may be live at once before any of them falls behind its model."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from tests.bench.load import Turn, together
from tests.bench.report import Row
from tests.bench.session import Session
from tests.bench.usage import Used

RATE = 20
# Chunks of a run: a minute of them, so that it is the streaming that is measured; and of one with `--quick`.
TOKENS, QUICK_TOKENS = 1200, 200
# People come one after the other; the last of 400 when the first has 20 s to go.
BEGUN_PER_SECOND = 10
LIMIT = 1.15
# Downwards until one passes.
LEVELS = (400, 300, 200, 100, 40)
QUICK_LEVELS = (40,)
# Used for how the CPU is shared out: while all are live.
SETTLED_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Try:
    """So many at once; `slowest` and `ideal` in seconds from a request to the last byte of its reader."""

    count: int
    ideal: float
    slowest: float
    complete: bool
    used: Used

    @property
    def passed(self) -> bool:
        return self.complete and self.slowest <= LIMIT * self.ideal

    def rows(self) -> Iterator[Row]:
        yield Row(
            f"  {self.count} at once: the slowest run and its reader",
            f"{self.slowest:.1f} s",
            aim=f"<= {LIMIT * self.ideal:.1f} s",
        )
        yield Row("    cores that all else on the machine used", f"{self.used.others / self.used.seconds:.1f}")


async def measure(session: Session) -> list[Row]:
    tokens = session.size(TOKENS, QUICK_TOKENS)
    title = f"live runs at {RATE} chunks/s, {tokens / RATE:.0f} s each, each read"
    rows: list[Row] = []
    for count in session.size(LEVELS, QUICK_LEVELS):
        tried = await _try(session, count, tokens)
        rows += tried.rows()
        if tried.passed:
            return [*rows, Row(title, str(count), "under 20", "400"), *_costs(tried)]
    return [*rows, Row(title, f"under {count}", "under 20", "400")]


def _costs(tried: Try) -> Iterator[Row]:
    chunks = tried.count * RATE * tried.used.seconds
    for kind, cpu in tried.used.cpu.items():
        yield Row(
            f"  CPU, {kind}", f"{100 * cpu / tried.used.seconds:.0f} % of a core, {1e6 * cpu / chunks:.0f} us/chunk"
        )
    yield Row("  CPU, service", f"{1e6 * tried.used.service / chunks:.0f} us/chunk")


async def _try(session: Session, count: int, tokens: int) -> Try:
    chats = await session.api.chats(count)
    all_live = asyncio.create_task(_while_all_are_live(session, count, tokens))

    async def turn(number: int, chat: str) -> Turn:
        await asyncio.sleep(number / BEGUN_PER_SECOND)
        return await session.api.turn(chat, f"tokens:{tokens} rate:{RATE}")

    turns = await together(turn(number, chat) for number, chat in enumerate(chats))
    slowest = max(turn.seconds for turn in turns)
    return Try(count, tokens / RATE, slowest, session.check(turns, tokens), await all_live)


async def _while_all_are_live(session: Session, count: int, tokens: int) -> Used:
    begun = count / BEGUN_PER_SECOND
    await asyncio.sleep(begun + SETTLED_SECONDS)
    before = session.meter.sample()
    await asyncio.sleep(tokens / RATE - begun - 2 * SETTLED_SECONDS)
    return session.meter.sample().since(before)
