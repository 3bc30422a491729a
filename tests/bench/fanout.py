"""Measures how late a run's chunks are when many read it."""

from statistics import median

from tests.bench.load import Json, Reading, text_of, together
from tests.bench.report import Row, ms, percentile
from tests.bench.session import Session

READERS = 50
RATE = 20
# All readers are there before the model says a word.
SILENCE_SECONDS = 3


async def measure(session: Session) -> list[Row]:
    tokens = session.size(200, 40)
    await session.api.forget_calls()
    (chat,) = await session.api.chats(1)
    run = await session.api.post_run(chat, f"tokens:{tokens} rate:{RATE} delay:{SILENCE_SECONDS}")
    readings = await together(session.api.read(run) for _ in range(READERS))
    (call,) = await session.api.calls()
    _check(session, readings, tokens, call)
    delays = [_delays(reading, tokens, call["first_chunk_at"]) for reading in readings]
    each = [delay for one in delays for delay in one]
    return [
        Row(f"delay of a chunk at {READERS} readers of one run, median / p99", ms(median(each), percentile(each, 99))),
        Row("  the slowest reader's median", ms(max(map(median, delays))), "2900 ms"),
    ]


def _check(session: Session, readings: list[Reading], tokens: int, call: Json) -> None:
    session.faults.update(fault for reading in readings if (fault := reading.fault(tokens)))
    late = sum(reading.opened_at > call["first_chunk_at"] for reading in readings)
    if late:
        session.faults[f"{late} of {READERS} readers came after the first chunk"] += 1


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
