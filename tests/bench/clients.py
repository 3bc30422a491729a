"""Measures both model clients in one installation: the workers' CPU from the provider's socket to the event log."""

from tests.bench.report import Row
from tests.bench.session import Session
from tests.bench.usage import Meter

RUNS = 10
RATE = 20
NAMES = {"own": "our own", "litellm": "litellm's"}


async def measure(session: Session) -> list[Row]:
    """Comes last: the workers are others afterwards."""
    rows = []
    for client, name in NAMES.items():
        with session.cluster.settings(session.cluster.workers, AGENT_CLIENT=client):
            session.meter = Meter(session.cluster.roots)
            per_chunk, memory = await _cost(session)
        rows += [
            Row(f"CPU per chunk in a worker, {name} client, {RUNS} live runs", f"{1e6 * per_chunk:.0f} us"),
            Row("  memory of such a worker", f"{memory / 2**20:.0f} MiB"),
        ]
    session.cluster.resume_all()
    session.meter = Meter(session.cluster.roots)
    return rows


async def _cost(session: Session) -> tuple[float, float]:
    """CPU seconds for each chunk, and resident bytes of one worker."""
    tokens = session.size(200, 60)
    session.check(await session.turns(2, "tokens:5"), 5)
    before = session.meter.sample()
    session.check(await session.turns(RUNS, f"tokens:{tokens} rate:{RATE}"), tokens)
    used = session.meter.sample().since(before)
    return used.cpu["workers"] / (RUNS * tokens), session.meter.memory("workers") / len(session.cluster.workers)
