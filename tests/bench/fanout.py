"""Measures how late a run's chunks are when many read it."""

import asyncio
from statistics import median

from tests.bench.load import Json, Reading, text_of, together
from tests.bench.report import Row, ms, percentile
from tests.bench.session import Session

CROWDS, QUICK_CROWDS = (50, 200), (50,)
RATE = 20
# All readers are there before the model says a word, and for a while idle.
SILENCE_SECONDS = {50: 3, 200: 8}


async def measure(session: Session) -> list[Row]:
    return [row for readers in session.size(CROWDS, QUICK_CROWDS) for row in await _measure(session, readers)]


async def _measure(session: Session, readers: int) -> list[Row]:
    tokens = session.size(200, 40)
    await session.api.forget_calls()
    (chat,) = await session.api.chats(1)
    run = await session.api.post_run(chat, f"tokens:{tokens} rate:{RATE} delay:{SILENCE_SECONDS[readers]}")
    before = session.meter.memory("web")
    async with asyncio.TaskGroup() as group:
        crowd = group.create_task(together(session.api.read(run) for _ in range(readers)))
        await asyncio.sleep(SILENCE_SECONDS[readers] - 1)
        growth = session.meter.memory("web") - before
    readings = crowd.result()
    (call,) = await session.api.calls()
    _check(session, readings, tokens, call)
    delays = [_delays(reading, tokens, call["first_chunk_at"]) for reading in readings]
    each = [delay for one in delays for delay in one]
    slowest = max(map(median, delays))
    return [
        Row(f"delay of a chunk at {readers} readers of one run, median / p99", ms(median(each), percentile(each, 99))),
        Row("  the slowest reader's median", ms(slowest), "2900 ms", "< 250 ms" if readers == 200 else ""),
        Row("  memory of the web process, per idle reader", f"{growth / readers / 1024:.0f} KiB", aim="< 60 KB"),
    ]


def _check(session: Session, readings: list[Reading], tokens: int, call: Json) -> None:
    session.faults.update(fault for reading in readings if (fault := reading.fault(tokens)))
    late = sum(reading.opened_at > call["first_chunk_at"] for reading in readings)
    if late:
        session.faults[f"{late} of {len(readings)} readers came after the first chunk"] += 1


def _delays(reading: Reading, tokens: int, first_at: float) -> list[float]:
    """Of each token, from when it was due at the model to the frame that completed it."""
    ends = [len(text_of(count)) for count in range(1, tokens + 1)]
    delays: list[float] = []
    length = 0
    for frame in reading.frames():
        if frame.chunk is None or frame.chunk["type"] != "text-delta":
            continue
        length += len(frame.chunk["delta"])
        while len(delays) < tokens and ends[len(delays)] <= length:
            delays.append(frame.at - (first_at + len(delays) / RATE))
    return delays
