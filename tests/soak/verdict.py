"""Owns the judgement over a soak: every run by what the provider sent, the rows hold and the readers got."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from config.processes import wait_until
from tests.acceptance.cluster import Cluster
from tests.soak.load import Turn

Json = dict[str, Any]

# After the last fault: a stale window, a sweep, and the rest of the longest run.
HEALING_SECONDS = 60.0
MESSAGE_STATUS = {"succeeded": "completed", "failed": "error", "aborted": "aborted"}

_RUNS = """
    SELECT r.id::text, r.status, r.end_reason, r.attempt, r.step_count, m.status, m.parts
    FROM runs_run r JOIN chat_message m ON m.id = r.message_id
"""


@dataclass
class Row:
    status: str
    end_reason: str
    attempt: int
    step_count: int
    message_status: str
    text: str


@dataclass
class Verdict:
    """What is wrong with which run, by kind. All of it empty is what the service promises."""

    attempts: int = 0
    endings: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    misread: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.stuck or self.doubled or self.misread)

    @property
    def complaints(self) -> list[str]:
        kinds = {"lost": self.lost, "stuck": self.stuck, "doubled": self.doubled, "misread": self.misread}
        return [f"{kind}: {complaint}" for kind, found in kinds.items() for complaint in found]


def judge(cluster: Cluster, turns: list[Turn], faults: Counter[str]) -> Verdict:
    """After the last fault. Waits until nothing is active any more, or for so long that it is stuck."""
    wait_until(lambda: not _active(cluster), HEALING_SECONDS)
    verdict = Verdict(stuck=[f"{run_id} is active" for run_id in _active(cluster)])
    rows, calls = _rows(cluster), _calls(cluster)
    for turn in turns:
        row = rows.get(turn.run_id)
        if row is None:
            verdict.lost.append(f"{turn.run_id} is not there; {turn.problem}")
            continue
        verdict.attempts += row.attempt
        verdict.endings[f"{row.status} ({row.end_reason})"] += 1
        mine = calls.get(turn.key, [])
        if turn.problem:
            verdict.stuck.append(f"{turn.run_id}: {turn.problem}")
        verdict.lost += (f"{turn.run_id} {row.status}: {wrong}" for wrong in _losses(turn, row, mine, faults))
        verdict.doubled += (f"{turn.run_id}: {wrong}" for wrong in _doubles(row, mine, faults))
        verdict.misread += (f"{turn.run_id}: {wrong}" for wrong in _misreadings(turn, row))
    verdict.doubled += _doubled_messages(cluster, turns)
    return verdict


def _losses(turn: Turn, row: Row, calls: list[Json], faults: Counter[str]) -> Iterator[str]:
    allowed = {"completed"}
    if turn.stopped:
        allowed.add("stopped")
    if turn.wish.breaks or faults["provider_reset"]:
        allowed.add("provider_error")
    if row.end_reason not in allowed:
        yield f"ended as {row.end_reason}"
    if row.message_status != MESSAGE_STATUS.get(row.status):
        yield f"its message is {row.message_status}"
    if not any(_says(row, said) for said in _tellings(row, calls)):
        yield f"its message says {row.text[-60:]!r}, which nobody sent"


def _tellings(row: Row, calls: list[Json]) -> Iterator[str]:
    """What the recorded steps said, followed by each thing the provider said in the step after them."""
    finished = {call["step"]: call["sent_text"] for call in calls if call["outcome"] == "finished"}
    steps = range(row.step_count)
    before = "".join(finished.get(step, "(never sent)") for step in steps)
    yield before
    yield from (before + call["sent_text"] for call in calls if call["step"] == row.step_count)


def _says(row: Row, told: str) -> bool:
    return told == row.text if row.status == "succeeded" else told.startswith(row.text)


def _doubles(row: Row, calls: list[Json], faults: Counter[str]) -> Iterator[str]:
    """An attempt finishes a step once, and two attempts are at it together only if one of them is frozen."""
    finished = Counter(call["step"] for call in calls if call["outcome"] == "finished")
    most = row.attempt + faults["provider_reset"]
    yield from (f"step {step} was finished {count} times" for step, count in finished.items() if count > most)
    if sum(finished.values()) > row.step_count + most - 1:
        yield f"{sum(finished.values())} finished calls for {row.step_count} steps in {row.attempt} attempts"
    together = _most_at_once(calls)
    if together > (2 if faults["worker_frozen"] and row.attempt > 1 else 1):
        yield f"{together} calls at once"


def _most_at_once(calls: list[Json]) -> int:
    ends = [(call["closed_at"] or float("inf"), -1) for call in calls]
    now = most = 0
    for _, change in sorted([(call["opened_at"], 1) for call in calls] + ends):
        now += change
        most = max(most, now)
    return most


def _misreadings(turn: Turn, row: Row) -> Iterator[str]:
    reader = turn.reader
    if reader is None or not reader.is_done:
        return  # a problem of the turn
    if gaps := reader.gaps():
        yield f"gaps {gaps}"
    if reader.text != row.text:
        yield f"read {reader.text[-60:]!r}, stored {row.text[-60:]!r}"
    if "closed" in reader.endings:
        yield "a stream was closed cleanly before its end"


def _doubled_messages(cluster: Cluster, turns: Iterable[Turn]) -> Iterator[str]:
    expected = Counter(turn.chat_id for turn in turns)
    found = cluster.query("SELECT chat_id::text, role, count(*) FROM chat_message GROUP BY 1, 2")
    for chat_id, role, count in found:
        if chat_id in expected and count > expected[chat_id]:
            yield f"chat {chat_id} has {count} {role} messages after {expected[chat_id]} turns"


def _active(cluster: Cluster) -> list[str]:
    found = cluster.query("SELECT id::text FROM runs_run WHERE status IN ('pending', 'running')")
    return [run_id for (run_id,) in found]


def _rows(cluster: Cluster) -> dict[str, Row]:
    return {run_id: Row(*fields, _text(parts)) for run_id, *fields, parts in cluster.query(_RUNS)}


def _text(parts: list[Json]) -> str:
    return "".join(part["text"] for part in parts if part["type"] == "text")


def _calls(cluster: Cluster) -> dict[str, list[Json]]:
    by_key = defaultdict(list)
    for call in cluster.model_stats()["calls"]:
        by_key[call["key"]].append(call)
    return by_key
