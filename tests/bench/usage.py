"""Owns what processes use: CPU seconds by kind of process, memory, and what the rest of the machine takes meanwhile."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import psutil

SERVICE = ("web", "workers", "ops", "beat", "postgres", "redis")
OWN = "bench"


@dataclass(frozen=True, slots=True)
class Used:
    """CPU seconds of each kind of process, and of everything else on the machine, in so many seconds."""

    seconds: float
    cpu: dict[str, float]
    others: float

    @property
    def service(self) -> float:
        return sum(self.cpu[kind] for kind in SERVICE)

    @property
    def shares(self) -> str:
        """In percent of one core."""
        return ", ".join(f"{kind} {100 * cpu / self.seconds:.0f}" for kind, cpu in self.cpu.items() if cpu > 0)


@dataclass(frozen=True, slots=True)
class Sample:
    at: float
    cpu: dict[str, float]
    machine: float

    def since(self, earlier: "Sample") -> Used:
        cpu = {kind: seconds - earlier.cpu[kind] for kind, seconds in self.cpu.items()}
        others = self.machine - earlier.machine - sum(cpu.values())
        return Used(self.at - earlier.at, cpu, max(others, 0.0))


class Meter:
    """Reads the processes of an installation; they must not be restarted meanwhile."""

    def __init__(self, roots: dict[str, list[int]]) -> None:
        self._roots = {**roots, OWN: [os.getpid()]}

    def sample(self) -> Sample:
        cpu = {kind: sum(map(_own_cpu if kind == OWN else _cpu, pids)) for kind, pids in self._roots.items()}
        return Sample(time.time(), cpu, _machine_cpu())

    def memory(self, kind: str) -> int:
        """Resident bytes of all processes of that kind."""
        return sum(psutil.Process(pid).memory_info().rss for pid in self._roots[kind])


def _cpu(pid: int) -> float:
    """Of the process and all its descendants; those that ended are in the times their parents keep."""
    return sum(sum(times[:4]) for times in _times(pid))


def _own_cpu(pid: int) -> float:
    """The installation's processes are our children, and counted by themselves."""
    return sum(psutil.Process(pid).cpu_times()[:2])


def _times(pid: int) -> Iterator[tuple[float, ...]]:
    root = psutil.Process(pid)
    for process in (root, *root.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            yield process.cpu_times()


def _machine_cpu() -> float:
    """Stolen time is somebody else's, too: of another guest on the same host."""
    times = psutil.cpu_times()
    return times.user + times.system + sum(getattr(times, name, 0.0) for name in ("nice", "irq", "softirq", "steal"))


def yardstick() -> float:
    """CPU seconds of a million additions: how fast the machine is just now, which others can halve."""
    began, total = time.process_time(), 0
    for number in range(1_000_000):
        total += number
    return time.process_time() - began
