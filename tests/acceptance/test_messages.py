"""Messages that come twice, late, broken or not at all: the "Messages" table of `docs/faults.md`."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest
from celery import Celery

from config.processes import wait_until
from tests.acceptance.audit import audit, error_lines, new_key
from tests.acceptance.client import Client
from tests.acceptance.cluster import Cluster
from tests.acceptance.failpoints import Failpoints

pytestmark = pytest.mark.usefixtures("healed")

Json = dict[str, Any]

QUEUE = "celery:runs"


@pytest.fixture
def broker(cluster: Cluster) -> Iterator[Celery]:
    """Puts messages into the workers' queue, as anybody can who reaches Redis."""
    with Celery(broker=cluster.env["REDIS_URL"], set_as_current=False) as app:
        app.conf.broker_transport_options = {"global_keyprefix": "celery:"}
        yield app


def deliver(broker: Celery, *arguments: object, **keywords: object) -> None:
    broker.send_task("runs.execute_run", args=arguments, kwargs=keywords, queue="runs")


def are_taken(cluster: Cluster) -> bool:
    with cluster.redis_client() as redis:
        return redis.llen(QUEUE) == 0


def test_the_same_message_many_times_at_once_and_after_the_end_is_one_execution(
    cluster: Cluster, client: Client, broker: Celery
) -> None:
    key = new_key()
    run = client.post_run(client.chat(), f"script:text tokens:40 rate:20 key:{key}")
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda _: deliver(broker, run["id"], 1), range(10)))
    run = audit(cluster, client, run, key, client.follow(run), expected_calls=1)
    deliver(broker, run["id"], 1)
    deliver(broker, run["id"], 2)
    # what was sent later is taken later: when this turn is over, so are those messages
    audit(cluster, client, run, key, expected_calls=1)
    assert client.run(run["id"]) == run


def test_a_message_for_an_old_attempt_touches_nothing(cluster: Cluster, client: Client, broker: Celery) -> None:
    key = new_key()
    run = client.post_run(client.chat(), f"script:text tokens:100 rate:20 key:{key}")
    reader = client.follow(run).wait_text()
    # as a rescue leaves it
    cluster.query("UPDATE runs_run SET status = 'pending', attempt = 2, sent_at = NULL WHERE id = %s", run["id"])
    client.wait_run(run["id"], lambda now: now["attempt"] == 2 and now["status"] == "running")
    for attempt in (0, 1, 1):
        deliver(broker, run["id"], attempt)
    run = audit(cluster, client, run, key, reader, expected_calls=2, most_open=2)
    assert (run["status"], run["attempt"]) == ("succeeded", 2)


BAD_ARGUMENTS: list[tuple[object, ...]] = [
    (),
    (None, None),
    ("garbage", 1),
    (str(uuid4()), "x"),
    (str(uuid4()), 10**30),
    (str(uuid4()), -1),
    ([], {}),
    ("\0", 1),
]


def test_messages_that_make_no_sense_are_no_ops_and_the_workers_stay_well(
    cluster: Cluster, client: Client, broker: Celery
) -> None:
    # given a run in its middle, and a run that is gone
    pids = [worker.pid for worker in cluster.workers]
    chat = client.chat()
    gone = client.wait_terminal(client.post_run(chat, "tokens:1")["id"])
    client.ask("DELETE", f"/api/chats/{chat}", expect=204)
    key = new_key()
    run = client.post_run(client.chat(), f"script:text tokens:100 rate:20 key:{key}")
    reader = client.follow(run).wait_text()
    # when the queue is full of nonsense
    for arguments in BAD_ARGUMENTS:
        deliver(broker, *arguments)
    deliver(broker, gone["id"], 1)
    deliver(broker, run["id"], 1, "more", than="expected")
    broker.send_task("runs.no_such_task", queue="runs")
    # then each that could not be read is one line, and nobody minds
    assert wait_until(lambda: are_taken(cluster), 10)
    audit(cluster, client, run, key, reader, expected_calls=1)
    assert len(error_lines(cluster, "message_ignored", "runs.execute_run")) >= 5
    assert [worker.pid for worker in cluster.workers] == pids


ENVELOPE = {
    "body": "no base64",
    "headers": {},
    "content-type": "application/json",
    "content-encoding": "utf-8",
    "properties": {
        "delivery_tag": "x",
        "delivery_info": {"exchange": "", "routing_key": "runs"},
        "body_encoding": "base64",
    },
}
GARBAGE = ["garbage", "[" * 10_000, "\0", "null", "1", "[]", "{}", '{"body": "x", "headers": {}}', json.dumps(ENVELOPE)]


def test_garbage_in_the_queue_is_a_no_op_and_the_workers_stay_well(cluster: Cluster, client: Client) -> None:
    pids = [worker.pid for worker in cluster.workers]
    key = new_key()
    run = client.post_run(client.chat(), f"script:text tokens:60 rate:20 key:{key}")
    reader = client.follow(run).wait_text()
    with cluster.redis_client() as redis:
        redis.lpush(QUEUE, *GARBAGE * 4)
    assert wait_until(lambda: are_taken(cluster), 10)
    run = audit(cluster, client, run, key, reader, expected_calls=1)
    assert (run["status"], run["attempt"]) == ("succeeded", 1)
    assert [worker.pid for worker in cluster.workers] == pids


def test_a_message_that_was_never_sent_is_sent_by_the_sweep(
    cluster: Cluster, client: Client, failpoints: Failpoints
) -> None:
    key = new_key()
    failpoints.arm("after_commit_before_send", "raise")
    run = client.post_run(client.chat(), f"script:text tokens:20 key:{key}")
    run = audit(cluster, client, run, key, client.follow(run), expected_calls=1)
    assert (run["status"], run["attempt"]) == ("succeeded", 1)


@pytest.mark.parametrize(
    ("point", "again"),
    [
        pytest.param("before_insert", 202, marks=pytest.mark.chaos),
        ("after_commit_before_send", 200),
        pytest.param("after_send", 200, marks=pytest.mark.chaos),
    ],
)
def test_a_request_whose_answer_died_with_its_process_may_be_repeated(
    cluster: Cluster, client: Client, failpoints: Failpoints, point: str, again: int
) -> None:
    key, chat, run_id = new_key(), client.chat(), str(uuid4())
    text = f"script:text tokens:20 key:{key}"
    failpoints.arm(point, "kill")
    with pytest.raises(httpx.TransportError):
        client.post_run(chat, text, id=run_id)
    cluster.resume_all()
    run = client.post_run(chat, text, id=run_id, expect=again)
    assert run["id"] == run_id
    run = audit(cluster, client, run, key, client.follow(run), expected_calls=1)
    assert (run["status"], run["attempt"]) == ("succeeded", 1)


def test_of_twenty_posts_with_one_id_all_get_the_same_run(cluster: Cluster, client: Client) -> None:
    key, chat = new_key(), client.chat()
    body = {"id": str(uuid4()), "text": f"script:text tokens:20 key:{key}"}

    def post(_: int) -> tuple[int, str]:
        answer = client.http.post(f"/api/chats/{chat}/runs", json=body)
        return answer.status_code, answer.json()["id"]

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(post, range(20)))
    assert sorted(answers) == [(200, body["id"])] * 19 + [(202, body["id"])]
    run = audit(cluster, client, client.run(body["id"]), key, expected_calls=1)
    assert [message["role"] for message in client.messages(chat)] == ["user", "assistant"] * 2
    assert run["status"] == "succeeded"


@pytest.mark.chaos
def test_one_long_turn_keeps_no_short_one_waiting_on_few_slots(cluster: Cluster, client: Client) -> None:
    with cluster.settings(cluster.workers, RUN_CONCURRENCY="2"):
        long_key = new_key()
        long = client.post_run(client.chat(), f"script:text tokens:600 rate:10 key:{long_key}")
        client.follow(long).wait_text()
        keys = [new_key() for _ in range(20)]
        runs = [client.post_run(client.chat(), f"script:text tokens:20 rate:20 key:{key}") for key in keys]
        for run in runs:
            assert client.wait_terminal(run["id"], 45)["attempt"] == 1
        assert client.run(long["id"])["status"] == "running"
        for run, key in zip(runs, keys, strict=True):
            audit(cluster, client, run, key, expected_calls=1)
        client.stop(long["id"])
        audit(cluster, client, long, long_key, expected_calls=1)
