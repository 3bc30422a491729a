"""Shows where a worker and the web process spend their CPU while runs are live, if py-spy is there."""

import asyncio
import shutil
from collections import Counter
from pathlib import Path

from tests.bench.report import Row
from tests.bench.session import Session

RUNS = 40
RATE = 20
TOKENS = 200
# Leaves out how the runs begin.
SETTLED_SECONDS = 3
RECORDED_SECONDS = 5
SHOWN = 12


async def measure(session: Session) -> list[Row]:
    program = shutil.which("py-spy")
    if program is None:
        return [Row("profile of a worker and the web process", "skipped: no py-spy")]
    worker, web = session.cluster.workers[0].pid, session.cluster.web.pid
    assert worker is not None
    assert web is not None
    turns = asyncio.create_task(session.turns(RUNS, f"tokens:{TOKENS} rate:{RATE}"))
    await asyncio.sleep(SETTLED_SECONDS)
    profiles = await asyncio.gather(_record(session, program, worker), _record(session, program, web))
    session.check(await turns, TOKENS)
    named = zip(("a worker", "the web process"), profiles, strict=True)
    return [row for name, stacks in named for row in _rows(name, stacks)]


async def _record(session: Session, program: str, pid: int) -> Counter[str]:
    """How often each function was the one that ran. Only who holds the GIL computes; the others wait."""
    output = session.cluster.folder / f"profile-{pid}"
    options = ["--duration", str(RECORDED_SECONDS), "--format", "raw", "--output", str(output), "--function", "--gil"]
    process = await asyncio.create_subprocess_exec(
        program,
        "record",
        "--pid",
        str(pid),
        *options,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, complaints = await process.communicate()
    if process.returncode:
        session.faults[f"py-spy: {complaints.decode().strip().splitlines()[-1]}"] += 1
        return Counter()
    return _innermost(output)


def _innermost(output: Path) -> Counter[str]:
    functions: Counter[str] = Counter()
    for line in output.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        functions[stack.rpartition(";")[2]] += int(count)
    return functions


def _rows(name: str, functions: Counter[str]) -> list[Row]:
    total = functions.total()
    title = Row(f"profile of {name}, {RUNS} live runs, own time", f"{total} samples")
    return [
        title,
        *(Row(f"  {name[:56]}", f"{100 * count / total:.1f} %") for name, count in functions.most_common(SHOWN)),
    ]
