"""Measures how many runs may be live at once before any of them falls behind its model."""

import asyncio
import time
from dataclasses import dataclass

from tests.bench.load import together
from tests.bench.report import Row
from tests.bench.session import Session
from tests.bench.usage import Used

RATE = 20
TOKENS = 200
IDEAL_SECONDS = TOKENS / RATE
LIMIT_SECONDS = 1.15 * IDEAL_SECONDS
GIVE_UP_SECONDS = 2 * IDEAL_SECONDS
LEVELS = (40, 80, 120, 160, 240, 320, 400)
QUICK_LEVELS = (40,)
SMALLEST = 10
# A level is tried again while there is time: whoever else uses the machine may have spoiled it.
SEARCH_SECONDS = 90.0


@dataclass(frozen=True, slots=True)
class Try:
    """So many at once; `seconds` from the first request to the last byte of the last reader."""

    count: int
    seconds: float
    complete: bool
    used: Used

    @property
    def passed(self) -> bool:
        return self.complete and self.seconds <= LIMIT_SECONDS

    def row(self) -> Row:
        took = f"{self.seconds:.2f} s" if self.seconds < GIVE_UP_SECONDS else f"over {GIVE_UP_SECONDS:.0f} s"
        return Row(f"  {self.count} at once: last reader done after", took, aim=f"<= {LIMIT_SECONDS:.1f} s")


async def measure(session: Session) -> list[Row]:
    tries = await _search(session)
    rows = [one.row() for one in tries]
    title = f"live runs at {RATE} chunks/s, {TOKENS} each, each read"
    best = max((one for one in tries if one.passed), key=lambda one: one.count, default=None)
    if best is None:
        return [*rows, Row(title, f"under {min(one.count for one in tries)}", "under 20", "40")]
    chunks = best.count * TOKENS
    return [
        *rows,
        Row(title, str(best.count), "under 20", "40"),
        *(
            Row(f"  CPU at {best.count}, {kind}", f"{100 * cpu / best.used.seconds:.0f} % of a core")
            for kind, cpu in best.used.cpu.items()
        ),
        Row("  CPU per chunk, service", f"{1e6 * best.used.service / chunks:.0f} us"),
        Row("  CPU per chunk, workers", f"{1e6 * best.used.cpu['workers'] / chunks:.0f} us"),
        Row("  CPU per chunk, web", f"{1e6 * best.used.cpu['web'] / chunks:.0f} us"),
    ]


async def _search(session: Session) -> list[Try]:
    """Upwards until a level fails, or downwards until one passes; then between the two."""
    until = time.monotonic() + session.size(SEARCH_SECONDS, 0.0)
    tries: list[Try] = []
    for count in session.size(LEVELS, QUICK_LEVELS):
        if not await _passes(session, count, tries, until):
            break
    if not any(one.passed for one in tries) and tries[0].count > SMALLEST:
        await _passes(session, tries[0].count // 2, tries, until)
    while (count := _between(tries)) and time.monotonic() + IDEAL_SECONDS < until:
        await _passes(session, count, tries, until)
    return tries


def _between(tries: list[Try]) -> int | None:
    """Halfway, in tens; None when it is narrowed down, or nothing passed, or nothing failed."""
    passed = max((one.count for one in tries if one.passed), default=None)
    failed = min((one.count for one in tries if not one.passed and one.count > (passed or 0)), default=None)
    if passed is None or failed is None or failed - passed <= 10:
        return None
    return (passed + failed) // 20 * 10


async def _passes(session: Session, count: int, tries: list[Try], until: float) -> bool:
    tries.append(await _try(session, count))
    if not tries[-1].passed and time.monotonic() + 2 * IDEAL_SECONDS < until:
        tries.append(await _try(session, count))
    return tries[-1].passed


async def _try(session: Session, count: int) -> Try:
    chats = await session.api.chats(count)
    before = session.meter.sample()
    try:
        async with asyncio.timeout(GIVE_UP_SECONDS):
            turns = await together(session.api.turn(chat, f"tokens:{TOKENS} rate:{RATE}") for chat in chats)
    except TimeoutError:
        used = session.meter.sample().since(before)
        await session.quiet()
        return Try(count, GIVE_UP_SECONDS, False, used)
    used = session.meter.sample().since(before)
    seconds = max(turn.reading.ended_at for turn in turns) - min(turn.asked_at for turn in turns)
    return Try(count, seconds, session.check(turns, TOKENS), used)
