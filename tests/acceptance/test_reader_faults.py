"""Readers that vanish, return in crowds, or never read; and what time, beats and deletions do to runs."""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from config.processes import wait_until
from config.supervisor import Child, procfile_command
from tests.acceptance.audit import audit, calls, new_key
from tests.acceptance.client import Client, Json
from tests.acceptance.proxied import ProxiedCluster
from tests.acceptance.reader import Reader
from tests.timing import in_time

pytestmark = [pytest.mark.alone, pytest.mark.timeout(300)]

# Of one web process: its pool, and the thread that watches the database.
MOST_CONNECTIONS = 12
# Those that answer requests and those that ask the database, which begin when they are needed.
MOST_THREADS = 30


def streaming(client: Client, wishes: str) -> tuple[Json, str]:
    key = new_key()
    return client.post_run(client.chat(), f"script:text {wishes} key:{key}"), key


@pytest.mark.parametrize("end", [pytest.param("kill", marks=pytest.mark.chaos), "terminate"])
def test_readers_of_a_web_process_that_ends_resume_at_another(
    proxied: ProxiedCluster, person: Client, end: str
) -> None:
    run, key = streaming(person, "tokens:300 rate:30")
    address = proxied.start_web("web-2")
    readers = [person.follow(run, address=address) for _ in range(20)]
    for reader in readers:
        reader.wait_text(50)
    web = proxied.children.pop("web-2")
    getattr(web, end)()
    for reader in readers:
        # broken off: a clean end would be taken for the end of the message
        reader.wait_for(lambda reader=reader: bool(reader.endings))
        assert reader.endings == ["broken"]
        reader.address = proxied.address
        reader.resume()
    assert web.wait(10)
    run = audit(proxied, person, run, key, *readers, expected_calls=1)
    assert (run["status"], run["attempt"]) == ("succeeded", 1)


@pytest.mark.chaos
def test_two_hundred_readers_that_drop_and_return_at_once_are_whole(proxied: ProxiedCluster, person: Client) -> None:
    run, key = streaming(person, "tokens:300 rate:20")
    readers = [person.follow(run) for _ in range(200)]
    for reader in readers:
        reader.wait_text(30)
    starts = [reader.message.starts for reader in readers]
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(Reader.cut, readers))
    for reader in readers:
        reader.resume()
    run = audit(proxied, person, run, key, *readers, expected_calls=1)
    assert run["status"] == "succeeded"
    assert [reader.message.starts for reader in readers] == starts


@contextmanager
def silent_readers(cluster: ProxiedCluster, client: Client, run: Json, count: int) -> Iterator[list[socket.socket]]:
    """Connections that ask for the stream and never read a byte of it."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(open_stream(cluster, client, run)) for _ in range(count)]
        yield sockets


def open_stream(cluster: ProxiedCluster, client: Client, run: Json) -> socket.socket:
    address = urlsplit(cluster.address)
    connection = socket.create_connection((address.hostname or "", address.port or 0))
    lines = [f"GET {run['stream_url']} HTTP/1.1", f"Host: {address.netloc}"]
    lines += [f"{name}: {value}" for name, value in client.headers.items()]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    return connection


def test_readers_that_never_read_hold_up_nobody(proxied: ProxiedCluster, person: Client) -> None:
    # more than all buffers on the way take
    run, key = streaming(person, "tokens:400 rate:80 size:15000")
    with silent_readers(proxied, person, run, 5):
        reader = person.follow(run).wait_text(60_000)
        run = audit(proxied, person, run, key, reader, expected_calls=1)
        (call,) = calls(proxied, key)
        in_time(call["closed_at"] - call["opened_at"], 15)
    assert run["status"] == "succeeded"


def test_two_hundred_idle_streams_take_no_database_connection(proxied: ProxiedCluster, person: Client) -> None:
    run, key = streaming(person, "tokens:1000 rate:1")
    connected = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    ((before,),) = proxied.query(connected)
    with silent_readers(proxied, person, run, 200) as sockets:
        for one in sockets:
            one.settimeout(20)
            assert one.recv(12) == b"HTTP/1.1 200"
        ((now,),) = proxied.query(connected)
        assert now <= before + MOST_CONNECTIONS
        asked_at = time.monotonic()
        person.ask("GET", "/api/me")
        in_time(time.monotonic() - asked_at, 2)
        assert person.stop(run["id"])["state"] == "requested"
        assert person.wait_terminal(run["id"])["end_reason"] == "stopped"
    audit(proxied, person, run, key, expected_calls=1)


@pytest.mark.chaos
def test_a_worker_that_boots_touches_nobody_s_runs(proxied: ProxiedCluster, person: Client) -> None:
    runs = [streaming(person, "tokens:3000 rate:40") for _ in range(4)]
    readers = [person.follow(run) for run, _ in runs]
    worker = proxied.start_worker()
    del proxied.children[worker.name]
    worker.stop(20)
    for (run, key), reader in zip(runs, readers, strict=True):
        now = person.run(run["id"])
        assert (now["status"], now["attempt"]) == ("running", 1)
        person.stop(run["id"])
        run = audit(proxied, person, run, key, reader, expected_calls=1)
        assert run["attempt"] == 1


def orphaned(cluster: ProxiedCluster, client: Client, count: int) -> list[tuple[Json, str]]:
    """Runs of a worker that is not there, with a heartbeat of this very moment."""
    for worker in cluster.workers:
        worker.pause()
    runs = [streaming(client, "tokens:3") for _ in range(count)]
    cluster.query(
        "UPDATE runs_run SET status = 'running', worker = 'gone', claim_token = gen_random_uuid(), started_at = now(), "
        "heartbeat_at = now() WHERE id::text = ANY(%s)",
        [run["id"] for run, _ in runs],
    )
    for worker in cluster.workers:
        worker.resume()
    return runs


def beat_at(cluster: ProxiedCluster, runs: list[tuple[Json, str]], seconds: float) -> None:
    """Their last heartbeat was, or will be, so many seconds from now."""
    cluster.query(
        "UPDATE runs_run SET heartbeat_at = now() + %s * interval '1 s' WHERE id::text = ANY(%s) AND attempt = 1",
        seconds,
        [run["id"] for run, _ in runs],
    )


@pytest.mark.chaos
def test_of_two_beats_and_two_sweeps_at_once_each_stale_run_is_rescued_once(
    proxied: ProxiedCluster, person: Client, tmp_path: Path
) -> None:
    proxied.beat.pause()
    stale, live = orphaned(proxied, person, 50), orphaned(proxied, person, 50)
    beat_at(proxied, live, 3600)
    beat_at(proxied, stale, -60)
    second = Child(
        "beat-2", procfile_command("beat"), tmp_path / "log", {**proxied.env, "PERDURE_STATE": str(tmp_path)}
    )
    second.start()
    proxied.beat.resume()
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(proxied.manage, ["sweep_runs"] * 2))
        for run, key in stale:
            run = person.wait_terminal(run["id"])
            assert (run["status"], run["attempt"], len(calls(proxied, key))) == ("succeeded", 2, 1)
        audit(proxied, person, *stale[0], expected_calls=1)
    finally:
        second.stop(10)
    assert {(now["status"], now["attempt"]) for run, _ in live if (now := person.run(run["id"]))} == {("running", 1)}
    beat_at(proxied, live, -60)
    for run, _ in live:
        assert person.wait_terminal(run["id"])["attempt"] == 2


def test_without_beat_a_post_heals_its_own_chat(proxied: ProxiedCluster, person: Client) -> None:
    proxied.beat.pause()
    ((run, key),) = orphaned(proxied, person, 1)
    beat_at(proxied, [(run, key)], -60)
    answer = person.post_run(run["chat_id"], "tokens:3", expect=(202, 409))
    assert answer.get("run_id") == run["id"]
    run = audit(proxied, person, run, key, expected_calls=1)
    assert (run["status"], run["attempt"]) == ("succeeded", 2)


@pytest.mark.chaos
def test_everything_restarted_at_once_loses_nothing(proxied: ProxiedCluster, person: Client) -> None:
    if proxied.redis is None or proxied.postgres is None:
        pytest.skip("these servers are not ours to restart")
    runs = [streaming(person, "tokens:200 rate:30") for _ in range(6)]
    readers = [person.follow(run, persistent=True).wait_text(30) for run, _ in runs]
    victim = proxied.workers[0]
    victim.kill()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda server: server.restart(), (proxied.redis, proxied.postgres)))
    for (run, key), reader in zip(runs, readers, strict=True):
        run = audit(proxied, person, run, key, reader)
        assert run["status"] == "succeeded"


def closed_soon(cluster: ProxiedCluster, key: str, seconds: float = 5) -> bool:
    return wait_until(lambda: calls(cluster, key)[0]["outcome"] == "client_closed", seconds)


def test_a_chat_deleted_under_its_run_takes_the_run_with_it(proxied: ProxiedCluster, person: Client) -> None:
    run, key = streaming(person, "tokens:3000 rate:20")
    reader = person.follow(run).wait_text()
    person.ask("DELETE", f"/api/chats/{run['chat_id']}", expect=204)
    assert closed_soon(proxied, key)
    reader.wait_for(lambda: reader.endings == ["broken"])
    for table, column in (("runs_run", "id"), ("runs_step", "run_id"), ("chat_message", "id")):
        known = run["message_id"] if table == "chat_message" else run["id"]
        assert proxied.query(f"SELECT 1 FROM {table} WHERE {column} = %s", known) == []


def test_a_user_deleted_under_a_run_stops_it(proxied: ProxiedCluster) -> None:
    account = proxied.account()
    with proxied.client(account) as client:
        run, key = streaming(client, "tokens:3000 rate:20")
        client.follow(run).wait_text()
    delete = f"from django.contrib.auth.models import User; User.objects.get(username={account.username!r}).delete()"
    proxied.manage("shell", "--no-imports", "-c", delete)
    assert closed_soon(proxied, key)
    assert wait_until(
        lambda: proxied.query("SELECT 1 FROM runs_run WHERE id = %s AND status = 'running'", run["id"]) == [], 5
    )


@pytest.mark.chaos
def test_five_hundred_who_wait_for_one_run_take_no_thread_and_no_connection_and_are_all_answered(
    proxied: ProxiedCluster, person: Client
) -> None:
    run, key = streaming(person, "tokens:1000 rate:1")
    connected = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    queries = "SELECT sum(calls_of_all) FROM (SELECT xact_commit AS calls_of_all FROM pg_stat_database) AS stats"
    waiting = {**run, "stream_url": f"/api/runs/{run['id']}/wait?timeout=60"}
    ((before,),) = proxied.query(connected)
    web = psutil.Process(proxied.web.pid)
    threads = web.num_threads()
    with silent_readers(proxied, person, waiting, 500) as sockets:
        for one in sockets:
            one.settimeout(30)
            assert one.recv(12) == b"HTTP/1.1 200"  # the head comes at once, the body when the run has ended
        time.sleep(1)
        ((now,),) = proxied.query(connected)
        assert now <= before + MOST_CONNECTIONS
        assert web.num_threads() <= threads + MOST_THREADS
        ((asked,),) = proxied.query(queries)
        time.sleep(5)
        ((asked_later,),) = proxied.query(queries)
        assert asked_later - asked < 250, "they ask the database, again and again"
        assert person.stop(run["id"])["state"] == "requested"
        for one in sockets:
            body = b""
            while not body.rstrip().endswith(b"0"):  # the last of the chunks it is sent in
                body += one.recv(65536)
            assert b'"status":"aborted"' in body
    audit(proxied, person, run, key, expected_calls=1)
