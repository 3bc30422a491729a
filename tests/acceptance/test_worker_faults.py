"""Workers that die, freeze, leave or break: the "Worker" table of `docs/faults.md`."""

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from config.processes import wait_until
from tests.acceptance.audit import audit, calls, error_lines, new_key, watch_statuses
from tests.acceptance.client import Client
from tests.acceptance.cluster import Cluster
from tests.acceptance.conftest import MakeCluster
from tests.acceptance.failpoints import Failpoints
from tests.acceptance.reader import Reader
from tests.timing import in_time

pytestmark = [pytest.mark.alone, pytest.mark.usefixtures("healed")]

Json = dict[str, Any]

# A text, a tool call, a text; each step says five tokens.
TWO_STEPS = "call:breakable say:5 script:text tokens:5"
# Every failpoint from the claim to the settling; how many model calls a run of TWO_STEPS takes that dies there.
POINTS = {
    ("after_claim", 0): 2,
    ("before_first_write", 0): 2,
    ("mid_stream", 0): 2,  # before the model was asked
    ("mid_stream", 4): 3,
    ("before_step_commit", 0): 3,
    ("after_step_commit", 0): 2,
    ("before_tool", 0): 2,
    ("in_tool", 0): 2,
    ("after_tool", 0): 2,
    ("before_step_commit", 1): 3,
    ("after_step_commit", 1): 2,
    ("before_settle", 0): 2,
}
DEFAULT_WINDOWS = {"RUN_HEARTBEAT_SECONDS": "5", "RUN_STALE_SECONDS": "30", "RUN_SWEEP_SECONDS": "10"}
BY_DEFAULT = ("after_step_commit", 0)
BREAKING_BY_DEFAULT = {("after_claim", 0), ("mid_stream", 4), ("before_tool", 0), ("before_settle", 0)}


def windows(cluster: Cluster) -> float:
    """After so many seconds at the most somebody else has a dead worker's run."""
    return float(cluster.env["RUN_STALE_SECONDS"]) + float(cluster.env["RUN_SWEEP_SECONDS"])


def slow(key: str, tokens: int = 3000, rate: int = 40) -> str:
    return f"script:text tokens:{tokens} rate:{rate} key:{key}"


@pytest.mark.parametrize(
    ("point", "after", "expected_calls"),
    [
        pytest.param(*place, count, marks=[] if place == BY_DEFAULT else pytest.mark.chaos)
        for place, count in POINTS.items()
    ],
)
def test_a_worker_killed_anywhere_is_replaced_behind_the_last_step(
    cluster: Cluster, client: Client, failpoints: Failpoints, point: str, after: int, expected_calls: int
) -> None:
    key = new_key()
    failpoints.arm(point, "kill", after=after)
    run = client.post_run(client.chat(), f"{TWO_STEPS} key:{key}")
    reader = client.follow(run)
    failpoints.wait_broken(point)
    died_at = time.monotonic()
    client.wait_run(run["id"], lambda now: now["attempt"] == 2 and now["status"] != "pending")
    in_time(time.monotonic() - died_at, windows(cluster) + 1.5)
    run = audit(cluster, client, run, key, reader, expected_calls=expected_calls)
    assert (run["status"], run["attempt"], run["step_count"]) == ("succeeded", 2, 2)
    assert cluster.query("SELECT lost_attempts FROM runs_run WHERE id = %s", run["id"]) == [(1,)]


@pytest.mark.chaos
def test_with_the_default_windows_a_killed_worker_is_replaced_as_promised(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(env=DEFAULT_WINDOWS)
    watch_statuses(cluster)
    with cluster.client() as client:
        key = new_key()
        run = client.post_run(client.chat(), slow(key, tokens=300, rate=20))
        reader = client.follow(run).wait_text()
        cluster.holder(run).kill()
        died_at = time.monotonic()
        client.wait_run(run["id"], lambda now: now["attempt"] == 2 and now["status"] == "running", 60)
        took = time.monotonic() - died_at
        in_time(took, windows(cluster) + 1)
        run = audit(cluster, client, run, key, reader, expected_calls=2)
        assert (run["status"], run["attempt"]) == ("succeeded", 2)


def test_a_worker_killed_behind_the_settling_leaves_the_end_to_the_row(
    cluster: Cluster, client: Client, failpoints: Failpoints
) -> None:
    key = new_key()
    failpoints.arm("after_settle_before_finish", "kill")
    run = client.post_run(client.chat(), f"{TWO_STEPS} key:{key}")
    reader = client.follow(run)
    failpoints.wait_broken("after_settle_before_finish")
    reader.wait_done(10)
    late = client.follow(run)
    run = audit(cluster, client, run, key, reader, late, expected_calls=2, log_ends=False)
    assert (run["status"], run["attempt"]) == ("succeeded", 1)


@pytest.mark.chaos
def test_a_run_that_kills_every_worker_is_given_up_with_what_it_had_said(
    cluster: Cluster, client: Client, failpoints: Failpoints
) -> None:
    key = new_key()
    failpoints.arm("mid_stream", "kill", after=9)
    run = client.post_run(client.chat(), slow(key))
    reader = client.follow(run)
    for attempt in (2, 3):
        failpoints.wait_broken("mid_stream", 60)
        failpoints.arm("mid_stream", "kill", after=9 + attempt)
        cluster.revive()
        client.wait_run(run["id"], lambda now, attempt=attempt: now["attempt"] == attempt)
    failpoints.wait_broken("mid_stream", 60)
    cluster.resume_all()
    run = audit(cluster, client, run, key, reader, expected_calls=3)
    assert (run["status"], run["end_reason"], run["attempt"]) == ("aborted", "worker_lost", 4)
    assert reader.text


@pytest.mark.chaos
def test_with_one_attempt_allowed_the_first_crash_is_the_end(
    cluster: Cluster, client: Client, failpoints: Failpoints
) -> None:
    key = new_key()
    with cluster.settings([cluster.ops], RUN_MAX_ATTEMPTS="1"):
        run = client.post_run(client.chat(), slow(key))
        reader = client.follow(run).wait_text(50)
        cluster.holder(run).kill()
        run = audit(cluster, client, run, key, reader, expected_calls=1)
    assert (run["status"], run["end_reason"], run["attempt"]) == ("aborted", "worker_lost", 2)
    assert len(reader.text) >= 50


@pytest.mark.parametrize(
    "awake",
    [
        "while the newer attempt is live",
        pytest.param("after it finished", marks=pytest.mark.chaos),
        pytest.param("while a newer run is live", marks=pytest.mark.chaos),
    ],
)
def test_a_worker_that_slept_through_its_lease_writes_nothing(cluster: Cluster, client: Client, awake: str) -> None:
    # given a run that went on elsewhere while its worker slept, with a provider that had more to say
    key, newer_key = new_key(), new_key()
    run = client.post_run(client.chat(), f"script:stall times:1 after:40 tokens:250 rate:40 key:{key}")
    reader = client.follow(run).wait_text(50)
    sleeper = cluster.holder(run)
    sleeper.pause()
    client.wait_run(run["id"], lambda now: now["attempt"] == 2 and now["status"] == "running")
    newer = None
    if awake != "while the newer attempt is live":
        run = client.wait_terminal(run["id"])
        reader.wait_done()
        seen = everything(cluster, run)
    if awake == "while a newer run is live":
        newer = client.post_run(run["chat_id"], slow(newer_key, tokens=200))
        client.follow(newer).wait_text()
    # when it wakes up
    sleeper.resume()
    # then it hangs up, and that is all
    assert wait_until(lambda: calls(cluster, key)[0]["outcome"] == "client_closed", 5)
    assert wait_until(lambda: error_lines(cluster, "lease_lost", run["id"]), 5)
    if newer is not None:
        assert audit(cluster, client, newer, newer_key, expected_calls=1)["attempt"] == 1
    if run["finished_at"]:
        assert everything(cluster, run) == seen
    run = audit(cluster, client, run, key, reader, expected_calls=2, most_open=2)
    assert (run["status"], run["attempt"]) == ("succeeded", 2)


def everything(cluster: Cluster, run: Json) -> list[Any]:
    """Each row and log entry of a run."""
    tables = {"runs_run": "id", "runs_step": "run_id", "runs_toolcall": "run_id"}
    rows = [cluster.query(f"SELECT * FROM {table} WHERE {key} = %s", run["id"]) for table, key in tables.items()]
    rows.append(cluster.query("SELECT * FROM chat_message WHERE id = %s", run["message_id"]))
    with cluster.redis_client() as redis:
        return [*rows, redis.xrange(f"run:{run['id']}:log")]


@pytest.mark.parametrize("most", [5, pytest.param(20, marks=pytest.mark.chaos)])
def test_a_worker_told_to_leave_hands_its_runs_over_and_is_gone_in_seconds(
    cluster: Cluster, client: Client, most: int
) -> None:
    # given so many runs that one of two workers holds five of them, or twenty, each with a reader
    keys = [new_key() for _ in range(2 * most - 1)]
    chats = [client.chat() for _ in keys]
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda chat, key: client.post_run(chat, slow(key, tokens=100, rate=5)), chats, keys))
    readers = [client.follow(run) for run in runs]
    for reader in readers:
        reader.wait_text()
    (name, count), *_ = held(cluster).most_common(1)
    assert count >= most
    leaver = next(worker for worker in cluster.workers if name.startswith(f"{worker.name}-"))
    moved = [client.run(run["id"])["worker"] == name for run in runs]
    # when it is told to leave
    leaver.terminate()
    told_at = time.monotonic()
    # then it is gone, and nobody notices but by a new start
    assert leaver.wait(5), "it is still there"
    pauses = []
    for run, key, reader, has_moved in zip(runs, keys, readers, moved, strict=True):
        ended = client.wait_terminal(run["id"], 90)
        assert (ended["status"], ended["attempt"]) == ("succeeded", 1 + has_moved)
        if has_moved:
            audit(cluster, client, run, key, reader, expected_calls=2)
            assert all(reader.text.startswith(text) for text in shown(reader))
            pauses.append(first_start_after(reader, told_at) - told_at)
    lost = "SELECT count(*) FROM runs_run WHERE id = ANY(%s) AND lost_attempts > 0"
    assert cluster.query(lost, [run["id"] for run in runs]) == [(0,)]
    in_time(max(pauses), 2, what=pauses)


def held(cluster: Cluster) -> Counter[str]:
    """How many runs each worker holds."""
    return Counter(dict(cluster.query("SELECT worker, count(*) FROM runs_run WHERE status = 'running' GROUP BY 1")))


def shown(reader: Reader) -> Iterator[str]:
    """The text a reader showed, after each event."""
    text = ""
    for event in reader.events:
        if event.chunk and event.chunk["type"] == "start":
            text = ""
        elif event.chunk and event.chunk["type"] == "text-delta":
            text += event.chunk["delta"]
        yield text


def first_start_after(reader: Reader, moment: float) -> float:
    return next(
        event.at for event in reader.events if event.at > moment and event.chunk and event.chunk["type"] == "start"
    )


@pytest.mark.chaos
def test_what_a_leaving_worker_had_not_handed_over_when_it_was_killed_is_rescued(
    cluster: Cluster, client: Client
) -> None:
    # given a worker that holds texts, which it can hand over, and a tool that it has to wait for
    key = new_key()
    stuck = client.post_run(client.chat(), f'call:block_thread={{"seconds": 8}} tokens:5 key:{key}')
    client.wait_run(stuck["id"], lambda now: now["step_count"] == 1)
    leaver = cluster.holder(stuck)
    keys = [new_key() for _ in range(10)]
    runs = [client.post_run(client.chat(), slow(key, tokens=300)) for key in keys]
    readers = [client.follow(run).wait_text() for run in runs]
    # when it gets two seconds to leave
    leaver.terminate()
    gone = leaver.wait(2)
    leaver.kill()
    # then only the tool counts as lost
    assert not gone
    for run, text_key, reader in zip(runs, keys, readers, strict=True):
        assert audit(cluster, client, run, text_key, reader)["status"] == "succeeded"
    stuck = audit(cluster, client, stuck, key, expected_calls=2)
    assert (stuck["status"], stuck["attempt"]) == ("succeeded", 2)
    lost = "SELECT id::text FROM runs_run WHERE id = ANY(%s) AND lost_attempts > 0"
    assert cluster.query(lost, [run["id"] for run in [*runs, stuck]]) == [(stuck["id"],)]


def test_a_loop_that_is_blocked_for_a_while_loses_no_lease(cluster: Cluster, client: Client) -> None:
    key, seconds = new_key(), float(cluster.env["RUN_STALE_SECONDS"]) * 2 / 3
    run = client.post_run(client.chat(), f'call:block_loop={{"seconds": {seconds}}} tokens:5 key:{key}')
    run = audit(cluster, client, run, key, client.follow(run), expected_calls=2)
    assert (run["status"], run["attempt"]) == ("succeeded", 1)


@pytest.mark.chaos
def test_a_hundred_busy_runs_lose_no_lease(cluster: Cluster, client: Client) -> None:
    keys = [new_key() for _ in range(100)]
    runs = [client.post_run(client.chat(), slow(key, tokens=200, rate=20)) for key in keys]
    ended = [client.wait_terminal(run["id"], 60) for run in runs]
    assert Counter((run["status"], run["attempt"]) for run in ended) == {("succeeded", 1): 100}
    for run, key in zip(runs[::20], keys[::20], strict=True):
        audit(cluster, client, run, key, expected_calls=1)


def test_code_of_yesterday_works_on_the_database_of_tomorrow(cluster: Cluster, client: Client) -> None:
    # as a deploy leaves it for a while: migrated first, and the processes one after the other
    key = new_key()
    run = client.post_run(client.chat(), slow(key, tokens=60))
    reader = client.follow(run).wait_text()
    cluster.query("ALTER TABLE runs_run ADD COLUMN of_tomorrow integer NOT NULL DEFAULT 0")
    cluster.query("ALTER TABLE chat_message ADD COLUMN of_tomorrow text NULL")
    try:
        assert audit(cluster, client, run, key, reader, expected_calls=1)["status"] == "succeeded"
    finally:
        cluster.query("ALTER TABLE runs_run DROP COLUMN of_tomorrow")
        cluster.query("ALTER TABLE chat_message DROP COLUMN of_tomorrow")


@pytest.mark.chaos
def test_a_loop_that_is_blocked_for_ever_loses_its_runs_to_another_worker(cluster: Cluster, client: Client) -> None:
    keys = [new_key() for _ in range(10)]
    others = [client.post_run(client.chat(), slow(key, tokens=500)) for key in keys]
    readers = [client.follow(run).wait_text() for run in others]
    key = new_key()
    blocking = client.post_run(client.chat(), f'call:block_loop={{"seconds": 3600}} tokens:5 key:{key}')
    stuck = cluster.holder(client.wait_run(blocking["id"], lambda now: now["worker"] is not None))
    client.wait_run(blocking["id"], lambda now: now["attempt"] == 2)
    # what the stuck one takes from the queue it gives back
    late = [(client.post_run(client.chat(), f"tokens:5 key:{key}"), key) for key in (new_key() for _ in range(6))]
    for run, late_key in late:
        assert audit(cluster, client, run, late_key, expected_calls=1)["attempt"] == 1
    for run, text_key, reader in zip(others, keys, readers, strict=True):
        assert audit(cluster, client, run, text_key, reader, most_open=2)["status"] == "succeeded"
    blocking = audit(cluster, client, blocking, key, expected_calls=2)
    assert (blocking["status"], blocking["attempt"]) == ("succeeded", 2)
    stuck.kill()


@pytest.mark.parametrize(
    ("point", "after"),
    [
        pytest.param(*place, marks=[] if place in BREAKING_BY_DEFAULT else pytest.mark.chaos)
        for place in POINTS
        if place[0] != "in_tool"
    ],
)
def test_an_error_of_ours_anywhere_fails_the_run_at_once(
    cluster: Cluster, client: Client, failpoints: Failpoints, point: str, after: int
) -> None:
    key = new_key()
    failpoints.arm(point, "raise", after=after)
    run = client.post_run(client.chat(), f"{TWO_STEPS} key:{key}")
    reader = client.follow(run)
    failpoints.wait_broken(point)
    broke_at = time.monotonic()
    run = client.wait_terminal(run["id"])
    in_time(time.monotonic() - broke_at, 1)
    run = audit(cluster, client, run, key, reader)
    assert (run["status"], run["end_reason"], run["attempt"]) == ("failed", "internal_error", 1)


def test_an_error_within_a_tool_is_told_to_the_model(cluster: Cluster, client: Client, failpoints: Failpoints) -> None:
    key = new_key()
    failpoints.arm("in_tool", "raise")
    run = client.post_run(client.chat(), f"{TWO_STEPS} key:{key}")
    run = audit(cluster, client, run, key, client.follow(run), expected_calls=2)
    assert run["status"] == "succeeded"
    assert calls(cluster, key)[-1]["messages"][-1]["content"] == "Error: FailpointError: in_tool"


@pytest.mark.parametrize("tool", ["block_thread", "ignore_cancel"])
def test_a_tool_that_cannot_be_cancelled_does_not_keep_its_run_from_stopping(
    cluster: Cluster, client: Client, tool: str
) -> None:
    key = new_key()
    run = client.post_run(client.chat(), f'call:{tool}={{"seconds": 10}} key:{key}')
    reader = client.follow(run)
    reader.wait_for(lambda: "tool-input-available" in reader.types)
    client.wait_run(run["id"], lambda now: now["step_count"] == 1)
    asked_at = time.monotonic()
    client.stop(run["id"])
    client.wait_terminal(run["id"])
    in_time(time.monotonic() - asked_at, 2.5)
    run = audit(cluster, client, run, key, reader, expected_calls=1)
    assert (run["status"], run["end_reason"]) == ("aborted", "stopped")


REFUSE_ENDS = """
    CREATE OR REPLACE FUNCTION refuse_end() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'this run must not end';
    END $$
"""
REFUSE_END = """
    CREATE TRIGGER refuse_end BEFORE UPDATE OF status ON runs_run FOR EACH ROW
    WHEN (NEW.id = '{}' AND NEW.finished_at IS NOT NULL) EXECUTE FUNCTION refuse_end()
"""


@contextmanager
def refusing_to_end(cluster: Cluster, run: Json) -> Iterator[None]:
    """The database takes no terminal status for this run."""
    cluster.query(REFUSE_ENDS)
    cluster.query(REFUSE_END.format(run["id"]))
    try:
        yield
    finally:
        cluster.query("DROP TRIGGER IF EXISTS refuse_end ON runs_run")


def test_a_settling_that_fails_for_a_while_is_repeated(cluster: Cluster, client: Client) -> None:
    key = new_key()
    run = client.post_run(client.chat(), f"script:text tokens:20 rate:20 key:{key}")
    reader = client.follow(run).wait_text()
    with refusing_to_end(cluster, run):
        assert wait_until(lambda: calls(cluster, key)[0]["outcome"] == "finished", 10)
        client.wait_run(run["id"], lambda now: now["step_count"] == 1)
        assert not wait_until(lambda: client.run(run["id"])["status"] != "running", 2)
    run = audit(cluster, client, run, key, reader, expected_calls=1)
    assert (run["status"], run["attempt"]) == ("succeeded", 1)


@pytest.mark.chaos
@pytest.mark.timeout(400)
def test_a_settling_that_never_succeeds_is_given_up_with_one_line_and_left_to_the_sweep(
    cluster: Cluster, client: Client
) -> None:
    key = new_key()
    run = client.post_run(client.chat(), f"script:text tokens:20 rate:20 key:{key}")
    reader = client.follow(run).wait_text()
    with refusing_to_end(cluster, run):
        assert wait_until(lambda: error_lines(cluster, "NON-TERMINAL", run["id"], run["chat_id"]), 200)
    run = audit(cluster, client, run, key, reader, expected_calls=1, given_up=1)
    assert (run["status"], run["attempt"]) == ("succeeded", 2)
