"""The main job over two worker processes: one turn, whole at every reader, executed once, whatever happens."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.acceptance.audit import audit, calls, new_key
from tests.acceptance.client import Client, Json
from tests.acceptance.cluster import Cluster
from tests.timing import in_time

pytestmark = pytest.mark.alone


def test_a_reader_that_comes_late_and_one_that_was_cut_end_with_what_the_provider_sent(
    cluster: Cluster, client: Client
) -> None:
    key = new_key()
    run = client.post_run(client.chat(), f"script:text tokens:60 rate:30 key:{key}")
    closed = client.follow(run).wait_for(lambda: True)
    closed.wait_for(lambda: closed.types.count("text-delta") >= 20)
    closed.cut()
    other = client.follow(run)
    closed.resume()
    run = audit(cluster, client, run, key, closed, other)
    assert run["status"] == "succeeded"
    assert len(calls(cluster, key)) == 1


def test_of_twenty_posts_at_once_one_begins_a_run(cluster: Cluster, client: Client) -> None:
    for _ in range(3):
        key, chat = new_key(), client.chat()

        def post(_: int, key: str = key, chat: str = chat) -> tuple[int, Json]:
            body = {"text": f"script:text tokens:30 rate:30 key:{key}"}
            answer = client.http.post(f"/api/chats/{chat}/runs", json=body)
            return answer.status_code, answer.json()

        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(post, range(20)))
        won = [body for status, body in answers if status == 202]
        lost = [body for status, body in answers if status == 409]
        assert (len(won), len(lost)) == (1, 19)
        assert {body["code"] for body in lost} == {"A_RUN_ALREADY_ACTIVE"}
        assert {body["run_id"] for body in lost} == {won[0]["id"]}
        client.wait_terminal(won[0]["id"])
        assert len(calls(cluster, key)) == 1
        assert [message["role"] for message in client.messages(chat)] == ["user", "assistant"]


def test_tools_are_called_and_their_results_answered(cluster: Cluster, client: Client) -> None:
    key = new_key()
    text = f'call:calculate={{"expression": "2**64 + 1/3"}} call:current_time={{"zone": "Europe/Paris"}} key:{key}'
    run = client.post_run(client.chat(), text)
    reader = client.follow(run)
    run = audit(cluster, client, run, key, reader)
    assert run["step_count"] == 2
    assert [tool["type"] for tool in reader.message.tools.values()] == ["tool-output-available"] * 2
    parts = client.message(run)["parts"]
    assert [part["type"] for part in parts][:3] == ["step-start", "tool-calculate", "tool-current_time"]
    assert [len(step["parts"]) for step in client.steps(run["id"])] == [3, 2]


def stop_latencies(
    cluster: Cluster, client: Client, count: int, text: str, ready: Callable[[Any, str], None]
) -> list[float]:
    """Seconds from each POST to the provider seeing its socket closed, for so many runs over two workers."""
    keys = [new_key() for _ in range(count)]
    runs = [client.post_run(client.chat(), f"{text} key:{key}") for key in keys]
    readers = [client.follow(run) for run in runs]
    for reader, key in zip(readers, keys, strict=True):
        ready(reader, key)
    latencies = []
    for run, key in zip(runs, keys, strict=True):
        asked_at = time.time()
        assert client.stop(run["id"])["state"] == "requested"
        client.wait_terminal(run["id"])
        (call,) = calls(cluster, key)
        assert call["outcome"] == "client_closed"
        latencies.append(call["closed_at"] - asked_at)
    workers = set()
    for run, key, reader in zip(runs, keys, readers, strict=True):
        ended = client.run(run["id"])
        assert (ended["status"], ended["end_reason"]) == ("aborted", "stopped")
        assert reader.wait_done().text == client.message(ended)["text"]
        assert calls(cluster, key)[0]["sent_text"].startswith(reader.text)
        workers.add(ended["worker"])
    assert len(workers) == 2
    return sorted(latencies)


MANY = [12, pytest.param(30, marks=pytest.mark.chaos)]


@pytest.mark.parametrize("count", MANY)
def test_every_stop_while_text_streams_cuts_the_provider_promptly(cluster: Cluster, client: Client, count: int) -> None:
    text = "script:text tokens:3000 rate:20"
    latencies = stop_latencies(cluster, client, count, text, lambda reader, _: reader.wait_text())
    in_time(latencies[count // 2], 0.15, what=latencies)
    in_time(latencies[-1], 1, what=latencies)


@pytest.mark.parametrize("count", MANY)
def test_every_stop_while_the_provider_hangs_cuts_it_promptly(cluster: Cluster, client: Client, count: int) -> None:
    latencies = stop_latencies(
        cluster, client, count, "script:no_headers", lambda reader, key: reader.wait_for(lambda: calls(cluster, key))
    )
    in_time(latencies[count // 2], 0.15, what=latencies)
    in_time(latencies[-1], 1, what=latencies)


def test_a_stop_whose_message_is_suppressed_lands_within_a_heartbeat(cluster: Cluster, client: Client) -> None:
    heartbeat = float(cluster.env["RUN_HEARTBEAT_SECONDS"])
    for number in range(5):
        key = new_key()
        run = client.post_run(client.chat(), f"script:text tokens:3000 rate:20 key:{key}")
        client.follow(run).wait_text()
        time.sleep(number * heartbeat / 5)
        asked_at = time.time()
        # only the column, as if Redis had lost the message
        cluster.query("UPDATE runs_run SET stop_requested_at = now(), stop_source = 'user' WHERE id = %s", run["id"])
        assert client.wait_terminal(run["id"])["status"] == "aborted"
        in_time(calls(cluster, key)[0]["closed_at"] - asked_at, heartbeat + 0.3)


@pytest.mark.chaos
def test_a_killed_worker_s_run_is_finished_by_the_other_while_a_reader_stays(cluster: Cluster, client: Client) -> None:
    key = new_key()
    run = client.post_run(client.chat(), f"script:text tokens:200 rate:40 key:{key}")
    reader = client.follow(run).wait_text(200)
    name = client.run(run["id"])["worker"]
    victim = next(worker for worker in cluster.workers if name.startswith(worker.name))
    victim.kill()
    died_at = time.monotonic()
    try:
        # the other worker goes on within stale window, sweep interval and a second
        client.wait_run(run["id"], lambda now: now["attempt"] == 2 and now["status"] == "running")
        windows = float(cluster.env["RUN_STALE_SECONDS"]) + float(cluster.env["RUN_SWEEP_SECONDS"])
        in_time(time.monotonic() - died_at, windows + 1)
        run = audit(cluster, client, run, key, reader)
        assert (run["status"], run["attempt"]) == ("succeeded", 2)
        assert len(calls(cluster, key)) == 2
        assert reader.endings == ["done"]
    finally:
        cluster.resume_all()


def test_redis_forgets_everything_in_mid_run(cluster: Cluster, client: Client) -> None:
    key = new_key()
    run = client.post_run(client.chat(), f"script:text tokens:120 rate:40 key:{key}")
    readers = [client.follow(run) for _ in range(3)]
    readers[0].wait_text(200)
    with cluster.redis_client() as redis:
        redis.flushall()
    late = client.follow(run)
    run = audit(cluster, client, run, key, *readers, late)
    assert (run["status"], run["attempt"]) == ("succeeded", 1)
    assert readers[0].message.starts >= 2


def test_operators_see_and_stop_runs_with_celery(cluster: Cluster, client: Client) -> None:
    run = client.post_run(client.chat(), f"script:text tokens:3000 rate:20 key:{new_key()}")
    client.follow(run).wait_text()
    assert run["id"] in cluster.celery("inspect", "live_runs")
    cluster.celery("control", "stop_run", run["id"])
    ended = client.wait_terminal(run["id"])
    assert (ended["status"], ended["stop_source"]) == ("aborted", "console")
