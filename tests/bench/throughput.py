"""Measures how many short runs the service gets through, and what one costs."""

import time
from collections.abc import Iterator

from tests.bench.load import Turn, together
from tests.bench.report import Row
from tests.bench.session import Session
from tests.bench.usage import OWN

IN_FLIGHT = 20
TOKENS = 20


async def measure(session: Session) -> list[Row]:
    count = session.size(300, 80)
    chats = iter(await session.api.chats(count))
    before, began = session.meter.sample(), time.perf_counter()
    done = await together(_one_after_the_other(session, chats) for _ in range(IN_FLIGHT))
    seconds, used = time.perf_counter() - began, session.meter.sample().since(before)
    session.check([turn for turns in done for turn in turns], TOKENS)
    per_run = {kind: f"{1000 * cpu / count:.1f} ms" for kind, cpu in used.cpu.items() if cpu}
    beside = {kind: per_run.pop(kind) for kind in ("model", OWN)}
    return [
        Row(
            f"runs of {TOKENS} chunks, {IN_FLIGHT} in flight, each read, {count}",
            f"{count / seconds:.1f} /s",
            "7 /s",
            "20 /s",
        ),
        Row("CPU per run, all processes of the service", f"{1000 * used.service / count:.0f} ms", "159 ms"),
        *(Row(f"  in {kind}", cost) for kind, cost in per_run.items()),
        *(Row(f"  beside it, in the {kind}", cost) for kind, cost in beside.items()),
    ]


async def _one_after_the_other(session: Session, chats: Iterator[str]) -> list[Turn]:
    return [await session.api.turn(chat, f"tokens:{TOKENS}") for chat in chats]
