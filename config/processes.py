"""Owns what is asked of a process by its pid, and the choice of a port for it."""

import os
import secrets
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def free_port() -> int:
    """A port nobody listens on.

    Below the range from which outgoing connections get theirs: a client that keeps calling a server while that is
    down could otherwise be given its port.
    """
    while True:
        port = 15_000 + secrets.randbelow(15_000)
        if is_free(port):
            return port


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As a server does: connections that linger from its last time do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def command_of(pid: int) -> list[str]:
    """Its command line; empty when there is no such process, or only its zombie."""
    import psutil  # comes with the embedded servers

    try:
        return list(psutil.Process(pid).cmdline())
    except psutil.Error:
        return []


def serves(pid: int, folder: Path) -> bool:
    """Whether the process has to do with this folder; the pid may be somebody else's by now."""
    return any(str(folder) in word for word in command_of(pid))


def children(pid: int) -> list[int]:
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def send(pid: int, sig: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, sig)


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def age() -> float:
    """Seconds since this process began, imports included."""
    import psutil

    return float(time.time() - psutil.Process().create_time())


def write_privately(path: Path, text: str) -> None:
    """Readable by nobody else, and never seen half-written."""
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    draft.write_text(text)
    draft.replace(path)
