"""Measures how soon after a stop the provider's socket is closed."""

import asyncio
import time
from statistics import median

from tests.bench.load import Json, together
from tests.bench.report import Row, ms, percentile
from tests.bench.session import Session

PEER = "24 / 56 ms"
OPEN_SECONDS = 20.0
CLOSED_SECONDS = 20.0


async def measure(session: Session) -> list[Row]:
    count = session.size(30, 10)
    streaming, holders = await _stop_all(session, count, "tokens:4000 rate:20")
    silent, _ = await _stop_all(session, count, "script:no_headers")
    return [
        Row(f"stop to provider cut, text streams, p50 / p99 of {count}", _value(streaming), PEER),
        Row(f"stop to provider cut, provider silent, p50 / p99 of {count}", _value(silent), PEER),
        Row("  runs stopped on each worker while text streamed", " + ".join(map(str, holders))),
    ]


def _value(delays: list[float]) -> str:
    return ms(median(delays), percentile(delays, 99))


async def _stop_all(session: Session, count: int, script: str) -> tuple[list[float], list[int]]:
    """Seconds from each stop's request to the end of its model call, and how many runs each worker held."""
    await session.api.forget_calls()
    chats = await session.api.chats(count)
    runs = await together(session.api.post_run(chat, f"{script} key:{number}") for number, chat in enumerate(chats))
    await _all_open(session, count, speaking="tokens" in script)
    asked_at = {}
    for number, run in enumerate(runs):
        asked_at[str(number)] = time.time()
        await session.api.stop(run["id"])
    calls = await _all_closed(session)
    _check(session, runs, calls)
    return [call["closed_at"] - asked_at[call["key"]] for call in calls], _holders(session, runs)


async def _all_open(session: Session, count: int, *, speaking: bool) -> None:
    async with asyncio.timeout(OPEN_SECONDS):
        while True:
            calls = await session.api.calls()
            if len(calls) == count and all(call["first_chunk_at"] or not speaking for call in calls):
                return
            await asyncio.sleep(0.2)


async def _all_closed(session: Session) -> list[Json]:
    async with asyncio.timeout(CLOSED_SECONDS):
        while True:
            calls = await session.api.calls()
            if all(call["closed_at"] for call in calls):
                return calls
            await asyncio.sleep(0.2)


def _check(session: Session, runs: list[Json], calls: list[Json]) -> None:
    if len(calls) != len(runs):
        session.faults[f"{len(runs)} runs made {len(calls)} model calls"] += 1
    for call in calls:
        if call["outcome"] != "client_closed":
            session.faults[f"a stopped run's model call ended as {call['outcome']}"] += 1


def _holders(session: Session, runs: list[Json]) -> list[int]:
    ids = [run["id"] for run in runs]
    found = session.cluster.query("SELECT count(*) FROM runs_run WHERE id = ANY(%s::uuid[]) GROUP BY worker", ids)
    return [row[0] for row in found]
