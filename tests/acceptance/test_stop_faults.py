"""Stops at every moment, lost, repeated, too late: the "Stop" table of `docs/faults.md`."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from config.processes import wait_until
from tests.acceptance.audit import audit, calls, new_key
from tests.acceptance.client import Client
from tests.acceptance.cluster import Cluster
from tests.acceptance.failpoints import Failpoints
from tests.acceptance.reader import Reader
from tests.timing import in_time

pytestmark = [pytest.mark.alone, pytest.mark.usefixtures("healed")]

Json = dict[str, Any]

LIVE = "script:text tokens:3000 rate:20"


def assert_stopped(run: Json) -> None:
    assert (run["status"], run["end_reason"], run["error"]) == ("aborted", "stopped", None)


def test_a_stop_before_the_claim_ends_the_run_on_the_spot(
    cluster: Cluster, client: Client, failpoints: Failpoints
) -> None:
    key = new_key()
    failpoints.arm("before_claim", "wait")
    run = client.post_run(client.chat(), f"{LIVE} key:{key}")
    reader = client.follow(run)
    failpoints.wait_reached("before_claim")
    answer = client.stop(run["id"])
    assert (answer["stopped"], answer["state"], answer["run"]["status"]) == (True, "stopped", "aborted")
    failpoints.disarm()
    run = audit(cluster, client, run, key, reader, expected_calls=0)
    assert_stopped(run)
    assert run["started_at"] is None


@pytest.mark.parametrize("point", ["after_claim", "before_first_write"])
def test_a_stop_between_the_claim_and_the_first_call_keeps_the_provider_out_of_it(
    cluster: Cluster, client: Client, failpoints: Failpoints, point: str
) -> None:
    key = new_key()
    failpoints.arm(point, "wait")
    run = client.post_run(client.chat(), f"{LIVE} key:{key}")
    reader = client.follow(run)
    failpoints.wait_reached(point)
    assert client.stop(run["id"])["state"] == "requested"
    failpoints.disarm()
    run = audit(cluster, client, run, key, reader)
    assert_stopped(run)
    assert len(calls(cluster, key)) <= 1


MOMENTS: dict[str, tuple[str, Callable[[Reader, list[Json]], bool]]] = {
    "before the headers": ("script:no_headers", lambda reader, made: len(made) == 1),
    "between headers and first chunk": ("script:hang", lambda reader, made: len(made) == 1),
    "between chunks": (LIVE, lambda reader, made: bool(reader.text)),
    "in a silence": ("script:stall after:5", lambda reader, made: bool(reader.text)),
    "in a retry pause": ("status:500", lambda reader, made: reader.types.count("data-run") == 3),
    "in a tool": (
        'call:block_thread={"seconds": 20} script:text',
        lambda reader, made: "message-metadata" in reader.types,
    ),
    "in the second step": (
        f"call:breakable {LIVE}",
        lambda reader, made: len(made) == 2 and bool(reader.text),
    ),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_stop_at_any_moment_is_prompt(cluster: Cluster, client: Client, moment: str) -> None:
    key, (text, has_come) = new_key(), MOMENTS[moment]
    run = client.post_run(client.chat(), f"{text} key:{key}")
    reader = client.follow(run)
    reader.wait_for(lambda: has_come(reader, calls(cluster, key)))
    asked_at = time.time()
    assert client.stop(run["id"])["state"] == "requested"
    run = client.wait_terminal(run["id"])
    made = calls(cluster, key)
    in_time(time.time() - asked_at, 1.5)
    assert all(call["closed_at"] for call in made)
    in_time(max((call["closed_at"] - asked_at for call in made), default=0), 1)
    run = audit(cluster, client, run, key, reader, expected_calls=len(made))
    assert_stopped(run)


@pytest.mark.parametrize("point", ["before_step_commit", "after_step_commit", "before_tool", "after_tool"])
def test_a_stop_between_steps_is_the_end(cluster: Cluster, client: Client, failpoints: Failpoints, point: str) -> None:
    key = new_key()
    failpoints.arm(point, "wait")
    run = client.post_run(client.chat(), f"call:breakable say:3 {LIVE} key:{key}")
    reader = client.follow(run)
    failpoints.wait_reached(point)
    assert client.stop(run["id"])["state"] == "requested"
    failpoints.disarm()
    run = audit(cluster, client, run, key, reader)
    assert_stopped(run)


def test_a_stop_in_the_settling_is_answered_truthfully(
    cluster: Cluster, client: Client, failpoints: Failpoints
) -> None:
    key = new_key()
    failpoints.arm("before_settle", "wait")
    run = client.post_run(client.chat(), f"script:text tokens:5 key:{key}")
    reader = client.follow(run)
    failpoints.wait_reached("before_settle")
    assert client.stop(run["id"])["state"] == "requested"
    failpoints.disarm()
    run = audit(cluster, client, run, key, reader, expected_calls=1)
    assert (run["status"], run["end_reason"]) == ("succeeded", "completed")
    assert client.stop(run["id"])["state"] == "already_final"


def test_a_stop_whose_message_is_never_published_lands_with_the_heartbeat(
    cluster: Cluster, client: Client, failpoints: Failpoints
) -> None:
    key = new_key()
    run = client.post_run(client.chat(), f"{LIVE} key:{key}")
    reader = client.follow(run).wait_text()
    failpoints.arm("in_stop_after_row", "raise")
    asked_at = time.time()
    assert client.stop(run["id"])["state"] == "requested"
    assert_stopped(audit(cluster, client, run, key, reader, expected_calls=1))
    assert calls(cluster, key)[0]["closed_at"] - asked_at < float(cluster.env["RUN_HEARTBEAT_SECONDS"]) + 0.5


@pytest.mark.chaos
def test_a_web_process_killed_behind_the_row_of_a_stop_loses_no_stop(
    cluster: Cluster, client: Client, failpoints: Failpoints
) -> None:
    key = new_key()
    run = client.post_run(client.chat(), f"{LIVE} key:{key}")
    client.follow(run).wait_text()
    failpoints.arm("in_stop_after_row", "kill")
    with pytest.raises(httpx.TransportError):
        client.stop(run["id"])
    cluster.resume_all()
    assert_stopped(audit(cluster, client, run, key, client.follow(run), expected_calls=1))


def test_a_worker_that_slept_a_moment_stops_on_waking(cluster: Cluster, client: Client) -> None:
    key = new_key()
    run = client.post_run(client.chat(), f"{LIVE} key:{key}")
    reader = client.follow(run).wait_text()
    sleeper = cluster.holder(run)
    sleeper.pause()
    assert client.stop(run["id"])["state"] == "requested"
    sleeper.resume()
    woken_at = time.time()
    run = audit(cluster, client, run, key, reader, expected_calls=1)
    assert_stopped(run)
    assert run["attempt"] == 1
    in_time(calls(cluster, key)[0]["closed_at"] - woken_at, 1)


def test_a_run_whose_worker_sleeps_on_is_stopped_by_the_sweep(cluster: Cluster, client: Client) -> None:
    key = new_key()
    run = client.post_run(client.chat(), f"{LIVE} key:{key}")
    reader = client.follow(run).wait_text()
    sleeper = cluster.holder(run)
    sleeper.pause()
    assert client.stop(run["id"])["state"] == "requested"
    run = client.wait_terminal(run["id"])
    sleeper.resume()
    assert wait_until(lambda: calls(cluster, key)[0]["outcome"] == "client_closed", 5)
    run = audit(cluster, client, run, key, reader, expected_calls=1)
    assert_stopped(run)
    assert run["attempt"] == 2


def test_of_many_stops_at_once_by_all_roads_one_stops_and_the_others_say_so(cluster: Cluster, client: Client) -> None:
    key = new_key()
    run = client.post_run(client.chat(), f"{LIVE} key:{key}")
    reader = client.follow(run).wait_text()
    roads = [
        lambda: client.stop(run["id"]),
        lambda: client.stop_chat(run["chat_id"]),
        lambda: client.stop_chat(run["chat_id"], run_id=run["id"]),
    ] * 5
    with ThreadPoolExecutor(len(roads)) as pool:
        answers = [asked.result() for asked in [pool.submit(road) for road in roads]]
    assert [answer["stopped"] for answer in answers].count(True) == 1
    for answer in answers:
        ended = answer["run"] is None or answer["run"]["status"] == "aborted"
        assert answer["state"] in (("already_final", "idle") if ended else ("requested",))
    assert_stopped(audit(cluster, client, run, key, reader, expected_calls=1))


def test_a_stop_by_the_console_and_the_user_at_once_is_one_stop(cluster: Cluster, client: Client) -> None:
    key = new_key()
    run = client.post_run(client.chat(), f"{LIVE} key:{key}")
    client.follow(run).wait_text()
    with ThreadPoolExecutor(2) as pool:
        console = pool.submit(cluster.celery, "control", "stop_run", run["id"])
        answer = client.stop(run["id"])
        console.result()
    run = audit(cluster, client, run, key, expected_calls=1)
    assert_stopped(run)
    assert (run["stop_source"] == "user") == answer["stopped"]


def test_a_stop_after_the_end_or_of_an_earlier_run_touches_nothing(cluster: Cluster, client: Client) -> None:
    key, chat = new_key(), client.chat()
    earlier = client.wait_terminal(client.post_run(chat, "tokens:3")["id"])
    assert client.stop(earlier["id"])["state"] == "already_final"
    assert client.stop_chat(chat) == {"stopped": False, "state": "idle", "run": None}
    run = client.post_run(chat, f"{LIVE} key:{key}")
    client.follow(run).wait_text()
    mismatch = client.ask("POST", f"/api/chats/{chat}/stop", json={"run_id": earlier["id"]}, expect=409)
    assert (mismatch["code"], mismatch["run_id"]) == ("RUN_MISMATCH", run["id"])
    assert client.stop(earlier["id"])["state"] == "already_final"
    assert client.run(run["id"])["stop_requested_at"] is None
    assert client.run(earlier["id"]) == earlier
    client.stop(run["id"])
    assert_stopped(audit(cluster, client, run, key, expected_calls=1))
