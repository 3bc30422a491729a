"""Owns a soak: lanes of runs and a schedule of faults side by side, then the verdict over all of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from random import Random

from tests.acceptance.proxied import ProxiedCluster
from tests.soak.faults import Faults, fault, kinds, schedule
from tests.soak.load import Lane, Turn
from tests.soak.verdict import Verdict, judge

# Between the end of one fault and the next, at most.
LONGEST_PAUSE = 3.0


@dataclass
class Soak:
    """`runs` and `faults` are the least there are of each; a fault comes when its share of the runs was begun."""

    cluster: ProxiedCluster
    runs: int
    faults: int
    seed: int
    lanes: int = 16
    longest_seconds: float = 900.0
    say: Callable[[str], None] = lambda line: None
    done: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    _lanes: list[Lane] = field(default_factory=list)
    _faults_over: bool = False
    _began_at: float = 0.0

    @property
    def turns(self) -> list[Turn]:
        return [turn for lane in self._lanes for turn in list(lane.turns)]

    def run(self) -> Verdict:
        person = partial(self.cluster.client, self.cluster.account())
        self._began_at = time.monotonic()
        self._lanes = [Lane(person, Random(f"{self.seed}/{number}")) for number in range(self.lanes)]
        with ThreadPoolExecutor(self.lanes) as pool:
            running = [pool.submit(lane.run, self._wants_more) for lane in self._lanes]
            try:
                self._break_things()
            finally:
                self._faults_over = True
                self.cluster.resume_all()
            for lane in running:
                lane.result()
        verdict = judge(self.cluster, self.turns, self.done)
        self.seconds = time.monotonic() - self._began_at
        return verdict

    def _wants_more(self) -> bool:
        return not self._is_too_late and (len(self.turns) < self.runs or not self._faults_over)

    @property
    def _is_too_late(self) -> bool:
        return time.monotonic() - self._began_at > self.longest_seconds

    def _break_things(self) -> None:
        rng = Random(self.seed)
        faults = Faults(self.cluster, rng)
        for number, name in enumerate(schedule(kinds(self.cluster), self.faults, rng), 1):
            while len(self.turns) < self.runs * number / (self.faults + 1) and not self._is_too_late:
                time.sleep(0.1)
            if self._is_too_late:
                return
            self.say(f"{time.monotonic() - self._began_at:6.1f} s  {len(self.turns):4} runs  {name}")
            self.done[name] += 1
            fault(faults, name)()
            time.sleep(rng.uniform(0, LONGEST_PAUSE))


def table(soak: Soak, verdict: Verdict) -> str:
    rows = {
        "seed": soak.seed,
        "seconds": f"{soak.seconds:.0f}",
        "runs": len(soak.turns),
        **{f"  {ending}": count for ending, count in sorted(verdict.endings.items())},
        "attempts": verdict.attempts,
        "faults": f"{soak.done.total()} of {len(soak.done)} kinds",
        **{f"  {name}": count for name, count in sorted(soak.done.items())},
        "lost": len(verdict.lost),
        "stuck": len(verdict.stuck),
        "doubled": len(verdict.doubled),
        "readers wrong": len(verdict.misread),
    }
    return "\n".join([*(f"{name:<34}{value}" for name, value in rows.items()), *verdict.complaints])
