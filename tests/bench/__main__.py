"""`python -m tests.bench`: starts an installation, measures it against the scripted model, prints a table, ends."""

import argparse
import asyncio
import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import aiohttp
import uvloop

from config.supervisor import Interrupts
from tests.bench import clients, fanout, latency, live, memory, profile, stopping, throughput
from tests.bench.installation import Installation
from tests.bench.load import Api
from tests.bench.report import Row, ms, say, show, show_head
from tests.bench.session import Session
from tests.bench.usage import Meter, yardstick

# What to measure, and the seconds after which it is given up. Memory comes first, the most demanding last.
MEASURES: dict[str, tuple[Callable[[Session], Awaitable[list[Row]]], float]] = {
    "memory": (memory.measure, 30),
    "post": (latency.measure_posts, 40),
    "first": (latency.measure_first_text, 40),
    "crowd": (latency.measure_crowd, 60),
    "stop": (stopping.measure, 60),
    "fanout": (fanout.measure, 90),
    "throughput": (throughput.measure, 90),
    "live": (live.measure, 400),
    "profile": (profile.measure, 40),
    "clients": (clients.measure, 120),
}
# What takes too long for `--quick`.
SLOW = ("profile",)
ID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")
FAILURES = (AssertionError, TimeoutError, aiohttp.ClientError)


def main() -> int:
    options = _parser().parse_args()
    names = options.only or [name for name in MEASURES if not (options.quick and name in SLOW)]
    began = time.monotonic()
    try:
        faults = _run(names, quick=options.quick)
    except KeyboardInterrupt:
        return 130
    for fault, times in faults.items():
        say(f"FAULT: {fault}" + (f" ({times} times)" if times > 1 else ""))
    say(f"Took {time.monotonic() - began:.0f} s, {'with faults' if faults else 'without faults'}.")
    return 1 if faults else 0


def _run(names: Sequence[str], *, quick: bool) -> Counter[str]:
    """What went wrong."""
    interrupts = Interrupts()
    interrupts.install()
    with (
        tempfile.TemporaryDirectory(prefix="perdure-bench-") as folder,
        Installation(Path(folder), interrupts) as cluster,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        show_head(cluster)
        return runner.run(_measure_all(cluster, names, quick=quick)) + _complaints(cluster)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=MEASURES, help=", ".join(MEASURES))
    parser.add_argument("--quick", action="store_true", help="smaller numbers, in under 90 s")
    return parser


async def _measure_all(cluster: Installation, names: Sequence[str], *, quick: bool) -> Counter[str]:
    account = cluster.account("bench")
    async with Api(cluster.address, account.token, cluster.model_address) as api:
        session = Session(cluster, api, Meter(cluster.roots), quick)
        await session.turns(4, "tokens:5")
        noise = [await _measure(session, name) for name in names]
    say()
    say("How noisy the machine was: cores that all else on it used meanwhile, CPU time of a million additions before")
    for line in noise:
        say(line)
    return session.faults


async def _measure(session: Session, name: str) -> str:
    """Shows its rows, or notes why there are none; how busy the machine was with other things."""
    measure, seconds = MEASURES[name]
    meter, speed = session.meter, yardstick()
    before = meter.sample()
    try:
        async with asyncio.timeout(seconds):
            rows = await measure(session)
    except FAILURES as error:
        session.faults[f"{name} failed: {type(error).__name__} {error}".rstrip()] += 1
        rows = []
    # Processes that were restarted meanwhile took their times with them.
    used = session.meter.sample().since(before) if session.meter is meter else None
    for row in rows:
        show(row)
    try:
        await session.quiet()
    except FAILURES as error:
        session.faults[f"after {name}, runs did not end: {type(error).__name__} {error}".rstrip()] += 1
    if used is None:
        return f"  {name:<12} not known, {ms(speed)}"
    return f"  {name:<12} {used.others / used.seconds:.1f} cores, {ms(speed)}; took {used.seconds:.0f} s"


def _complaints(cluster: Installation) -> Counter[str]:
    """What the processes logged as a warning or worse."""
    found: Counter[str] = Counter()
    for child in cluster.children.values():
        for line in child.output().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and entry.get("level") in ("warning", "error", "critical"):
                found[f"{child.name} logged {entry['level']}: {ID.sub('<id>', str(entry.get('event')))}"] += 1
    return found


if __name__ == "__main__":
    sys.exit(main())
