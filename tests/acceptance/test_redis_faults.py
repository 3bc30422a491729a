"""Redis restarts, forgets, refuses, hangs and lies: work is delayed, nothing is lost, repeated or told wrongly.

The lifecycle feed (`GET /api/events`) is not here yet; its row of `docs/faults.md` belongs beside these tests.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from celery import Celery

from config.embedded import EmbeddedRedis
from config.processes import wait_until
from tests.acceptance.audit import audit, calls, logging_within_bounds, new_key, readiness
from tests.acceptance.client import Client, Json
from tests.acceptance.feed import FeedReader
from tests.acceptance.proxied import ProxiedCluster
from tests.acceptance.reader import Reader
from tests.timing import in_time

pytestmark = [pytest.mark.alone, pytest.mark.timeout(300)]

# Within these a worker consumes again after an outage, however long that was.
CONSUMES_SECONDS = 90.0
POST_SECONDS = 5.0
STOP_SECONDS = 2.0


def ours(cluster: ProxiedCluster) -> EmbeddedRedis:
    if cluster.redis is None:
        pytest.skip("this Redis is not ours to restart or to freeze")
    return cluster.redis


def streaming(client: Client, tokens: int = 120, rate: int = 40) -> tuple[Json, str, Reader]:
    """A run some of whose text a reader has."""
    key = new_key()
    run = client.post_run(client.chat(), f"script:text tokens:{tokens} rate:{rate} key:{key}")
    return run, key, client.follow(run).wait_text(60)


def promptly(ask: Callable[[], Json], seconds: float) -> Json:
    asked_at = time.monotonic()
    answer = ask()
    in_time(time.monotonic() - asked_at, seconds)
    return answer


def keep_everything(folder: Path, snapshot: Path) -> None:
    """What was written before the restart is there after it."""


def forget_everything(folder: Path, snapshot: Path) -> None:
    (folder / snapshot.name).unlink()


def forget_the_latest(folder: Path, snapshot: Path) -> None:
    shutil.copy(snapshot, folder / snapshot.name)


@pytest.mark.parametrize("forget", [keep_everything, forget_everything, forget_the_latest])
def test_a_redis_that_restarts_costs_no_reader_anything(
    proxied: ProxiedCluster, person: Client, tmp_path: Path, forget: Callable[[Path, Path], None]
) -> None:
    redis = ours(proxied)
    run, key, reader = streaming(person, tokens=160)
    snapshot = Path(shutil.copy(redis.folder / "appendonly.aof", tmp_path))
    reader.wait_text(300)
    # when it is killed and comes back with this of its data
    redis.kill()
    forget(redis.folder, snapshot)
    redis.start()
    late = person.follow(run)
    run = audit(proxied, person, run, key, reader, late, expected_calls=1)
    assert (run["status"], run["attempt"]) == ("succeeded", 1)
    assert reader.endings == ["done"]


def test_after_flushall_the_pending_are_sent_again_and_the_running_go_on(
    proxied: ProxiedCluster, person: Client
) -> None:
    running = [streaming(person, tokens=400) for _ in range(2)]
    # given five runs whose messages nobody has taken
    with broker(proxied) as app:
        answers = app.control.cancel_consumer("runs", reply=True, timeout=5, limit=len(proxied.workers) + 1)
        names = [name for answer in answers for name in answer if name.startswith("worker-")]
        assert len(names) == len(proxied.workers)
    keys = [new_key() for _ in range(5)]
    pending = [person.post_run(person.chat(), f"script:text tokens:5 key:{key}") for key in keys]
    with proxied.redis_client() as redis:
        redis.flushall()
    assert [person.run(run["id"])["status"] for run in pending] == ["pending"] * 5
    with broker(proxied) as app:
        app.control.add_consumer("runs", destination=names)
    for run, key in zip(pending, keys, strict=True):
        assert audit(proxied, person, run, key, expected_calls=1)["status"] == "succeeded"
    for run, key, reader in running:
        run = audit(proxied, person, run, key, reader, expected_calls=1)
        assert (run["status"], run["attempt"]) == ("succeeded", 1)
        assert reader.message.starts >= 2


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        ("refuse", 2),
        pytest.param("swallow", 4, marks=pytest.mark.chaos),
        pytest.param("refuse", 45, marks=pytest.mark.chaos),
        pytest.param("swallow", 30, marks=pytest.mark.chaos),
    ],
)
def test_while_redis_is_away_runs_start_stop_and_go_on(
    proxied: ProxiedCluster, person: Client, fault: str, seconds: int
) -> None:
    lasting, lasting_key, reader = streaming(person, tokens=40 * seconds + 80)
    stopped, stopped_key, stopped_reader = streaming(person, tokens=40 * seconds + 80)
    over_at = time.monotonic() + seconds
    # when Redis refuses every connection, or is half-open and then resets what was open
    getattr(proxied.to_redis, fault)()
    key = new_key()
    started = promptly(lambda: person.post_run(person.chat(), f"script:text tokens:5 key:{key}"), POST_SECONDS + 1)
    assert promptly(lambda: person.stop(stopped["id"]), STOP_SECONDS + 1)["state"] == "requested"
    # then the heartbeat brings the stop
    assert person.wait_terminal(stopped["id"], 5)["end_reason"] == "stopped"
    assert readiness(proxied)["redis"] == "down"
    with logging_within_bounds(proxied):
        time.sleep(max(over_at - time.monotonic(), 0))
    proxied.to_redis.pass_on()
    assert wait_until(lambda: readiness(proxied)["status"] == "ok", 10)
    person.wait_terminal(started["id"], CONSUMES_SECONDS)
    assert audit(proxied, person, started, key, expected_calls=1)["status"] == "succeeded"
    run = audit(proxied, person, lasting, lasting_key, reader, person.follow(lasting), expected_calls=1)
    assert (run["status"], run["attempt"]) == ("succeeded", 1)
    assert reader.endings == ["done"]
    audit(proxied, person, stopped, stopped_key, stopped_reader, expected_calls=1)


@pytest.mark.chaos
@pytest.mark.parametrize("seconds", [5, 20])
def test_no_stop_is_lost_while_subscriptions_are_killed_twice_a_second(
    proxied: ProxiedCluster, person: Client, seconds: int
) -> None:
    runs = [streaming(person, tokens=40 * seconds + 400) for _ in range(seconds)]
    heartbeat = float(proxied.env["RUN_HEARTBEAT_SECONDS"])
    with proxied.redis_client() as redis:
        for run, key, _ in runs:
            for _ in range(2):
                redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
                time.sleep(0.25)
            asked_at = time.time()
            person.stop(run["id"])
            person.wait_terminal(run["id"])
            (call,) = calls(proxied, key)
            in_time(call["closed_at"] - asked_at, heartbeat + 0.5)
            redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            time.sleep(0.5)
    for run, key, reader in runs:
        assert audit(proxied, person, run, key, reader, expected_calls=1)["end_reason"] == "stopped"


def test_a_hung_redis_delays_neither_post_nor_stop(proxied: ProxiedCluster, person: Client) -> None:
    redis = ours(proxied)
    run, key, reader = streaming(person, tokens=400)
    chat, started_key = person.chat(), new_key()
    redis.pause()
    started = promptly(lambda: person.post_run(chat, f"script:text tokens:5 key:{started_key}"), POST_SECONDS)
    assert promptly(lambda: person.stop(run["id"]), STOP_SECONDS)["state"] == "requested"
    assert person.wait_terminal(run["id"], 5)["end_reason"] == "stopped"
    redis.resume()
    audit(proxied, person, run, key, reader, expected_calls=1)
    person.wait_terminal(started["id"], CONSUMES_SECONDS)
    assert audit(proxied, person, started, started_key, expected_calls=1)["status"] == "succeeded"


def test_a_redis_without_memory_is_as_good_as_down(proxied: ProxiedCluster, person: Client) -> None:
    run, key, reader = streaming(person, tokens=120)
    chat, started_key = person.chat(), new_key()
    with proxied.redis_client() as redis:
        redis.config_set("maxmemory", "1")
        try:
            started = promptly(lambda: person.post_run(chat, f"script:text tokens:5 key:{started_key}"), POST_SECONDS)
            # the provider has said it all, and nobody could be told
            assert wait_until(lambda: calls(proxied, key)[0]["outcome"] == "finished", 10)
            assert not reader.is_done
        finally:
            redis.config_set("maxmemory", "0")
    run = audit(proxied, person, run, key, reader, person.follow(run), expected_calls=1)
    assert (run["status"], run["attempt"]) == ("succeeded", 1)
    person.wait_terminal(started["id"], CONSUMES_SECONDS)
    assert audit(proxied, person, started, started_key, expected_calls=1)["status"] == "succeeded"


GARBAGE = (b"", b"\xff\xfe", b"garbage", b"[]", b"null", b"{}", b"[" * 10_000, json.dumps({"run_id": 7}).encode())


@pytest.mark.parametrize("seconds", [2, pytest.param(60, marks=pytest.mark.chaos)])
def test_the_feed_is_alive_again_after_a_restart_for_whoever_stayed_and_whoever_comes(
    proxied: ProxiedCluster, person: Client, seconds: float
) -> None:
    redis = ours(proxied)
    with FeedReader(person) as stayed:
        run = person.post_run(person.chat(), "tokens:5")
        for status in ("pending", "running", "succeeded"):
            stayed.wait_status(run["id"], status)
        stayed.wait_for("title")
        resets = stayed.count("stream-reset")
        redis.kill()
        time.sleep(seconds)
        redis.start()
        stayed.wait_for("stream-reset", more_than=resets)
        with FeedReader(person) as came:
            run = person.post_run(person.chat(), "tokens:5")
            for reader in (stayed, came):
                reader.wait_status(run["id"], "succeeded")
    assert httpx.get(f"{proxied.address}/readyz").json()["feed_silence_seconds"] < 20


@pytest.mark.chaos
def test_garbage_and_forged_messages_on_every_channel_change_nothing(proxied: ProxiedCluster, person: Client) -> None:
    run, key, reader = streaming(person, tokens=200)
    # a stop that no row knows, and executions that no row wants
    forged_stop = json.dumps({"run_id": run["id"]}).encode()
    executions = [[], [run["id"]], [run["id"], 1], [run["id"], 2], [str(uuid4()), 1], ["x", "y", "z"]]
    with proxied.redis_client() as redis:
        channels = [name for name in redis.pubsub_channels() if name]
        assert any(name.startswith("runs:stop") for name in channels)
        channels.append("celery:/0.celery.pidbox")  # a pattern, which the list leaves out
        for channel in channels:
            for message in (*GARBAGE, forged_stop):
                redis.publish(channel, message)
        for arguments in executions:
            send(proxied, "runs.execute_run", arguments)
        send(proxied, "no.such_task", [])
        for message in GARBAGE:
            redis.lpush("celery:runs", message)
    run = audit(proxied, person, run, key, reader, expected_calls=1)
    assert (run["status"], run["attempt"]) == ("succeeded", 1)
    for worker in proxied.workers:
        worker.check()
    # both workers consume still, and hear stops
    for _ in range(6):
        other, other_key, other_reader = streaming(person, tokens=400)
        asked_at = time.time()
        person.stop(other["id"])
        audit(proxied, person, other, other_key, other_reader, expected_calls=1)
        in_time(calls(proxied, other_key)[0]["closed_at"] - asked_at, 1)
    assert any(worker.has_said("stop_message_ignored") for worker in proxied.workers)
    assert any(worker.has_said("message_ignored") for worker in proxied.workers)


@contextmanager
def broker(cluster: ProxiedCluster) -> Iterator[Celery]:
    """As anybody uses it who knows its address."""
    with Celery(broker=cluster.env["REDIS_URL"]) as app:
        app.conf.broker_transport_options = {"global_keyprefix": "celery:"}
        yield app


def send(cluster: ProxiedCluster, task: str, arguments: list[Any]) -> None:
    with broker(cluster) as app:
        app.send_task(task, args=arguments, queue="runs")
