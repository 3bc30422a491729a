"""The audit: what holds of a run, of its readers and of the whole cluster after every fault.

The numbers are those of the invariants in `docs/security.md`.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from typing import Any
from uuid import uuid4

import httpx

from config.processes import wait_until
from runs.transcript import assembled
from tests.acceptance.client import TERMINAL, Client
from tests.acceptance.cluster import Cluster
from tests.acceptance.reader import Reader

Json = dict[str, Any]

MESSAGE_STATUS = {"succeeded": "completed", "failed": "error", "aborted": "aborted"}
ACTIVE = "SELECT id, chat_id, status, attempt FROM runs_run WHERE status IN ('pending', 'running')"
# I1, and I2 by the trigger's record.
TWO_ACTIVE = "SELECT chat_id FROM runs_run WHERE status IN ('pending', 'running') GROUP BY chat_id HAVING count(*) > 1"
LEFT_TERMINAL = "SELECT run_id, before, after FROM audit_status WHERE before IN ('succeeded', 'failed', 'aborted')"
WATCH = (
    "CREATE TABLE IF NOT EXISTS audit_status (run_id uuid, before text, after text)",
    """CREATE OR REPLACE FUNCTION audit_status() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO audit_status VALUES (NEW.id, OLD.status, NEW.status); RETURN NULL;
    END $$""",
    """CREATE OR REPLACE TRIGGER audit_status AFTER UPDATE OF status ON runs_run FOR EACH ROW
        WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION audit_status()""",
)
PROVIDER_CLOSES_SECONDS = 2.0


def new_key() -> str:
    return uuid4().hex[:12]


def calls(cluster: Cluster, key: str) -> list[Json]:
    return list(cluster.model_stats(key=key)["calls"])


def watch_statuses(cluster: Cluster) -> None:
    """From now on the database itself records every change of a status."""
    for statement in WATCH:
        cluster.query(statement)


def audit(
    cluster: Cluster,
    client: Client,
    run: Json,
    key: str,
    *readers: Reader,
    expected_calls: int | None = None,
    most_open: int = 1,
    log_ends: bool = True,
    given_up: int = 0,
) -> Json:
    """The run ended once; provider, row, journal, log and every reader tell the same; the chat takes the next turn.

    `expected_calls` of the model under this key, `most_open` of them at once. Not `log_ends` when the worker died
    before it wrote the end there. `given_up` is how often its settling was given up. Answers the run as it ended.
    """
    run = client.wait_terminal(run["id"])
    message = client.message(run)
    _audit_row(cluster, run, message)
    _audit_provider(cluster, run, message, key, expected_calls, most_open)
    for reader in readers:
        _audit_reader(reader, message)
    _audit_log(cluster, run, message, log_ends=log_ends)
    _audit_journal(client, run, message)
    assert len(error_lines(cluster, "NON-TERMINAL", run["id"])) == given_up  # I16
    _audit_next_turn(cluster, client, run)
    return run


def nothing_left(cluster: Cluster, seconds: float = 30) -> None:
    """Of all that was ever run here nothing is active, open at the provider, or was refused by it."""
    assert wait_until(lambda: not cluster.query(ACTIVE), seconds), cluster.query(ACTIVE)  # I3
    assert wait_until(lambda: cluster.model_stats(messages="0")["open"] == 0, PROVIDER_CLOSES_SECONDS)
    assert cluster.query(TWO_ACTIVE) == []
    assert cluster.query(LEFT_TERMINAL) == []


def error_lines(cluster: Cluster, *words: str) -> list[str]:
    """The lines of all processes' logs, of earlier lives too, that contain all of these."""
    logs = [child.log.read_text(errors="replace") for child in cluster.children.values()]
    return [line for log in logs for line in log.splitlines() if all(word in line for word in words)]


def readiness(cluster: Cluster) -> Json:
    """What `/readyz` says of each thing that a request may need."""
    answer = httpx.get(f"{cluster.address}/readyz", timeout=10)
    checks: Json = answer.json()
    assert (answer.status_code == 200) == (checks["status"] == "ok")
    return checks


@contextmanager
def logging_within_bounds(cluster: Cluster, lines_per_second: float = 4, besides: int = 40) -> Iterator[None]:
    """No process fills its disk with an outage, however long."""
    began, before = time.monotonic(), _line_counts(cluster)
    yield
    most = besides + lines_per_second * (time.monotonic() - began)
    said = {name: count - before.get(name, 0) for name, count in _line_counts(cluster).items()}
    assert max(said.values()) < most, said


def _line_counts(cluster: Cluster) -> dict[str, int]:
    return {name: child.log.read_bytes().count(b"\n") for name, child in cluster.children.items()}


def _audit_row(cluster: Cluster, run: Json, message: Json) -> None:
    assert cluster.query(TWO_ACTIVE) == []
    assert cluster.query(LEFT_TERMINAL) == []
    ended = "SELECT count(*) FROM audit_status WHERE run_id = %s AND after = ANY(%s)"
    assert cluster.query(ended, run["id"], list(TERMINAL)) == [(1,)]
    times = [datetime.fromisoformat(run[name]) for name in ("created_at", "started_at", "finished_at") if run[name]]
    assert run["finished_at"] is not None
    assert all(earlier <= later for earlier, later in pairwise(times)), times  # I4
    assert message["status"] == MESSAGE_STATUS[run["status"]]
    has_error = run["status"] == "failed" or run["end_reason"] == "worker_lost"
    assert (run["error"] is not None) == has_error  # I18


def _audit_provider(
    cluster: Cluster, run: Json, message: Json, key: str, expected_calls: int | None, most_open: int
) -> None:
    """I5, I6 and I9: of each step the last call is the one that was kept."""
    assert wait_until(lambda: cluster.model_stats(key=key)["open"] == 0, PROVIDER_CLOSES_SECONDS)
    stats = cluster.model_stats(key=key)
    assert expected_calls in (None, stats["total"]), [(call["step"], call["outcome"]) for call in stats["calls"]]
    assert stats["max_open_by_key"].get(key, 0) <= most_open
    kept = {call["step"]: call["sent_text"] for call in stats["calls"]}
    sent = "".join(kept[step] for step in sorted(kept))
    assert message["text"] == sent if run["status"] == "succeeded" else sent.startswith(message["text"])
    assert all(call["script"] != "refused" for call in stats["calls"])


def _audit_reader(reader: Reader, message: Json) -> None:
    """I8."""
    reader.wait_done()
    assert reader.text == message["text"]
    assert reader.gaps() == []
    assert reader.message.ended[-1:] == ["finish"]


def _audit_log(cluster: Cluster, run: Json, message: Json, *, log_ends: bool) -> None:
    """I7, and what is folded from the log is what is stored."""
    assert wait_until(lambda: not log_ends or newest_chunks(cluster, run)[-1:] == ["finish"], 5)
    with cluster.redis_client() as redis:
        log = [(*map(int, name.split("-")), fields.get("d")) for name, fields in redis.xrange(f"run:{run['id']}:log")]
    entries = [(sequence, json.loads(data)) for attempt, sequence, data in log if data and attempt == run["attempt"]]
    assert log[-1][0] == run["attempt"]
    sequences = [sequence for sequence, _ in entries]
    assert sequences == list(range(sequences[0], sequences[0] + len(entries)))
    chunks = [chunk for _, chunk in entries]
    types = [chunk["type"] for chunk in chunks]
    assert types[0] == "start"
    assert types.count("finish") == (1 if log_ends else 0)
    assert types[-1] == "finish" or not log_ends
    told = assembled(message["id"], chunks)
    assert told.parts == message["parts"]
    assert told.metadata == message["metadata"] or not log_ends


def newest_chunks(cluster: Cluster, run: Json) -> list[str]:
    """The type of the newest chunk in the run's log, if there is one."""
    with cluster.redis_client() as redis:
        newest = redis.xrevrange(f"run:{run['id']}:log", count=1)
    return [json.loads(fields["d"])["type"] for _, fields in newest if "d" in fields]


def _audit_journal(client: Client, run: Json, message: Json) -> None:
    """The recorded steps are the beginning of what is stored, and all of it where the run succeeded."""
    steps = client.steps(run["id"])
    recorded = [_gist(part) for step in steps for part in step["parts"]]
    stored = [_gist(part) for part in message["parts"]]
    assert stored[: len(recorded)] == recorded
    assert run["step_count"] == len(steps)
    assert len(stored) == len(recorded) or run["status"] != "succeeded"
    states = {part["state"] for part in message["parts"] if part["type"].startswith("tool-")}
    assert states <= {"output-available", "output-error"}


def _gist(part: Json) -> tuple[str, str]:
    """A part without the state and the outcome that it gets later."""
    return part["type"], part.get("text", part.get("toolCallId", ""))


def _audit_next_turn(cluster: Cluster, client: Client, run: Json) -> None:
    """I10, and a provider that is strict about history takes it."""
    key = new_key()
    following = client.post_run(run["chat_id"], f"script:text tokens:1 rate:0 delay:0 key:{key}")
    assert client.wait_terminal(following["id"])["status"] == "succeeded"
    # Behind a turn without an answer the two prompts are one, and what the first asked for is done as well.
    assert {call["script"] for call in calls(cluster, key)} == {"text"}
