"""Named moments at which a test breaks this process; without `PERDURE_FAILPOINTS` nothing ever happens at them.

`PERDURE_FAILPOINTS` names a folder. A file in it that has the name of a failpoint arms it: its text is `kill` (SIGKILL
to this process), `raise`, or `wait` (until the file is gone; a file with the suffix `.reached` says that somebody
does), followed by the number of times the point is passed before, if any. The first two disarm it.
"""

import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

_folder = os.environ.get("PERDURE_FAILPOINTS")
# By name and time of arming: each arming counts anew.
_passed: Counter[tuple[str, int]] = Counter()
_lock = threading.Lock()


class FailpointError(Exception):
    """What an armed failpoint raises: an exception of ours that nobody expected."""


def failpoint(name: str) -> None:
    if _folder:
        _reach(Path(_folder) / name)


def _reach(armed: Path) -> None:
    try:
        act, *passes = armed.read_text().split()
        arming = armed.name, armed.stat().st_mtime_ns
    except (OSError, ValueError):
        return
    with _lock:
        _passed[arming] += 1
        if _passed[arming] <= int(passes[0] if passes else 0):
            return
    if act == "wait":
        armed.with_suffix(".reached").touch()
        while armed.exists():
            time.sleep(0.01)
        return
    armed.unlink(missing_ok=True)
    if act == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise FailpointError(armed.name)
