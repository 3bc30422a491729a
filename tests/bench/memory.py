"""Measures the memory of a worker, alone and with live runs."""

import asyncio

from tests.bench.report import Row
from tests.bench.session import Session

RUNS = 40
RATE = 20


async def measure(session: Session) -> list[Row]:
    """Comes first: Python keeps what it once had."""
    idle, web_idle = session.meter.memory("workers"), session.meter.memory("web")
    tokens = session.size(100, 40)
    turns = asyncio.create_task(session.turns(RUNS, f"tokens:{tokens} rate:{RATE}"))
    await asyncio.sleep(0.8 * tokens / RATE)
    busy, web_busy = session.meter.memory("workers"), session.meter.memory("web")
    session.check(await turns, tokens)
    workers = len(session.cluster.workers)
    return [
        Row("memory of a worker process, no live run", _mib(idle / workers)),
        Row(f"memory of a worker process, {RUNS} live runs on {workers} workers", _mib(busy / workers)),
        Row("memory per live run, in its worker", f"{(busy - idle) / RUNS / 2**10:.0f} KiB"),
        Row(f"memory of the web process, no reader, {RUNS} readers", f"{_mib(web_idle)}, {_mib(web_busy)}"),
    ]


def _mib(size: float) -> str:
    return f"{size / 2**20:.0f} MiB"
