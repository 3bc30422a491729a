"""Measures how long a person waits: for the answer to a POST, and for the first text."""

import time
from statistics import median

from tests.bench.report import Row, ms, percentile
from tests.bench.session import Session

CROWD = 50
SHORT = 5
CROWD_TOKENS = 20


async def measure_posts(session: Session) -> list[Row]:
    """One after the other, on a connection that is kept alive."""
    count = session.size(200, 60)
    chats = await session.api.chats(count)
    took = []
    for chat in chats:
        began = time.perf_counter()
        await session.api.post_run(chat, f"tokens:{SHORT}")
        took.append(time.perf_counter() - began)
    return [Row(f"POST of a run, p50 / p99 of {count}", ms(median(took), percentile(took, 99)), "31 / 43 ms")]


async def measure_first_text(session: Session) -> list[Row]:
    chats = await session.api.chats(session.size(40, 10))
    alone = [await session.api.turn(chat, f"tokens:{SHORT}") for chat in chats]
    session.check(alone, SHORT)
    return [
        Row("POST to first text, alone, median", ms(median(turn.first_text for turn in alone)), "105 ms", "< 60 ms")
    ]


async def measure_crowd(session: Session) -> list[Row]:
    crowd = []
    for _ in range(session.size(3, 1)):
        crowd += await session.turns(CROWD, f"tokens:{CROWD_TOKENS} rate:20")
    session.check(crowd, CROWD_TOKENS)
    waited = [turn.first_text for turn in crowd]
    return [Row(f"POST to first text, {CROWD} at once, median / max", ms(median(waited), max(waited)), "4100 ms")]
