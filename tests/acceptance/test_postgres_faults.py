"""Postgres restarts, goes away, freezes, runs out of connections and loses its answers: what is written is written
once, and nobody is taken for dead."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from uuid import uuid4

import psycopg
import pytest

from config.embedded import EmbeddedPostgres
from config.processes import wait_until
from tests.acceptance.audit import audit, calls, logging_within_bounds, new_key, readiness
from tests.acceptance.client import Client, Json, UnexpectedAnswer
from tests.acceptance.cluster import responds
from tests.acceptance.proxied import ProxiedCluster
from tests.acceptance.reader import Reader
from tests.soak.faults import terminate_backends
from tests.timing import in_time

pytestmark = [pytest.mark.alone, pytest.mark.timeout(300)]

ANSWER_SECONDS = 5.0


def ours(cluster: ProxiedCluster) -> EmbeddedPostgres:
    if cluster.postgres is None:
        pytest.skip("this Postgres is not ours to restart or to freeze")
    return cluster.postgres


def stepping(client: Client, steps: int = 3, say: int = 40) -> tuple[Json, str, Reader]:
    """A run of that many tool steps, which says so many words in each of them."""
    key = new_key()
    run = client.post_run(client.chat(), f"steps:{steps} say:{say} tokens:20 rate:40 key:{key}")
    return run, key, client.follow(run).wait_text(60)


def streaming(client: Client, tokens: int) -> tuple[Json, str, Reader]:
    key = new_key()
    run = client.post_run(client.chat(), f"script:text tokens:{tokens} rate:40 key:{key}")
    return run, key, client.follow(run).wait_text(60)


def went_on(cluster: ProxiedCluster, client: Client, run: Json, key: str, reader: Reader, expected_calls: int) -> None:
    """To its end in its first attempt: nobody rescued it, nothing was repeated."""
    run = audit(cluster, client, run, key, reader, expected_calls=expected_calls)
    assert (run["status"], run["attempt"]) == ("succeeded", 1)


def test_runs_go_on_over_a_restart_in_mid_step_and_requests_do_not_see_it_afterwards(
    proxied: ProxiedCluster, person: Client
) -> None:
    runs = [stepping(person) for _ in range(4)]
    ours(proxied).restart()
    assert wait_until(lambda: responds(f"{proxied.address}/readyz"), 10)
    # connections that the restart broke are nobody's problem
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: person.http.get("/api/me").status_code, range(40)))
    assert set(answers) == {200}
    for run, key, reader in runs:
        went_on(proxied, person, run, key, reader, expected_calls=4)


@pytest.mark.chaos
def test_runs_go_on_while_connections_are_terminated_each_second(proxied: ProxiedCluster, person: Client) -> None:
    runs = [stepping(person, steps=4) for _ in range(6)]
    for _ in range(4):
        terminate_backends(proxied)
        time.sleep(1)
    for run, key, reader in runs:
        went_on(proxied, person, run, key, reader, expected_calls=5)


@contextmanager
def refused(cluster: ProxiedCluster) -> Iterator[None]:
    cluster.to_postgres.refuse()
    yield
    cluster.to_postgres.pass_on()


@contextmanager
def half_open(cluster: ProxiedCluster) -> Iterator[None]:
    cluster.to_postgres.swallow()
    yield
    cluster.to_postgres.pass_on()


@contextmanager
def frozen(cluster: ProxiedCluster) -> Iterator[None]:
    """Nothing is lost, everything is late: what was asked meanwhile is done on waking."""
    server = ours(cluster)
    server.pause()
    yield
    server.resume()


@pytest.mark.parametrize(
    ("away", "seconds"),
    [
        (refused, 3),
        pytest.param(refused, 8, marks=pytest.mark.chaos),
        pytest.param(frozen, 8, marks=pytest.mark.chaos),
        pytest.param(half_open, 8, marks=pytest.mark.chaos),
        pytest.param(refused, 60, marks=pytest.mark.chaos),
        pytest.param(half_open, 60, marks=pytest.mark.chaos),
    ],
)
def test_an_outage_is_nobodys_death_and_what_streams_goes_on(
    proxied: ProxiedCluster,
    person: Client,
    away: Callable[[ProxiedCluster], AbstractContextManager[None]],
    seconds: int,
) -> None:
    # given runs that stream through the outage, and some whose first step ends in it; all windows are shorter
    with ThreadPoolExecutor(5) as pool:
        lasting = pool.map(lambda _: streaming(person, tokens=40 * seconds + 200), range(2))
        ending = list(pool.map(lambda _: stepping(person, steps=1, say=200), range(3)))
        lasting = list(lasting)
    with away(proxied), logging_within_bounds(proxied):
        over_at = time.monotonic() + seconds
        lengths = [len(reader.text) for _, _, reader in lasting]
        assert readiness(proxied)["database"] == "down"
        time.sleep(max(over_at - time.monotonic(), 0))
        # then what streams went on, and no step began
        assert all(len(reader.text) > 200 + length for (_, _, reader), length in zip(lasting, lengths, strict=True))
        assert [len(calls(proxied, key)) for _, key, _ in ending] == [1, 1, 1]
    for run, key, reader in lasting:
        went_on(proxied, person, run, key, reader, expected_calls=1)
    for run, key, reader in ending:
        went_on(proxied, person, run, key, reader, expected_calls=2)


@pytest.mark.parametrize(
    "said",
    [
        pytest.param([b"SET \"status\" = 'running'"], id="claim"),
        pytest.param([b'INSERT INTO "runs_step"', b"COMMIT"], id="step"),
        pytest.param([b'UPDATE "runs_toolcall"', b"COMMIT"], id="outcome"),
        pytest.param([b"'succeeded'", b"COMMIT"], id="settle"),
    ],
)
def test_a_write_whose_commit_was_not_heard_of_is_not_done_twice(
    proxied: ProxiedCluster, person: Client, said: list[bytes]
) -> None:
    chat, key = person.chat(), new_key()
    lost = proxied.to_postgres.lose_reply(*said)
    run = person.post_run(chat, f"calls:calculate say:5 tokens:5 rate:40 key:{key}")
    reader = person.follow(run)
    assert lost.sprung.wait(10)
    went_on(proxied, person, run, key, reader, expected_calls=2)
    assert [len(step["parts"]) for step in person.steps(run["id"])] == [3, 2]


def test_a_post_whose_commit_was_not_heard_of_is_repeated_with_its_id(proxied: ProxiedCluster, person: Client) -> None:
    chat, key = person.chat(), new_key()
    body = {"text": f"tokens:5 rate:40 key:{key}", "id": str(uuid4())}
    lost = proxied.to_postgres.lose_reply(b'INSERT INTO "runs_run"', b"COMMIT")
    with pytest.raises(UnexpectedAnswer, match="503"):
        person.post_run(chat, **body)
    assert lost.sprung.is_set()
    run = person.post_run(chat, **body, expect=200)
    # nobody sent its message but the sweep
    assert audit(proxied, person, run, key, expected_calls=1)["status"] == "succeeded"


@pytest.mark.chaos
def test_without_connections_requests_are_refused_quickly_and_runs_survive(
    proxied: ProxiedCluster, person: Client
) -> None:
    ours(proxied)
    chat = person.chat()
    runs = [streaming(person, tokens=500) for _ in range(2)]
    with ExitStack() as hogs:
        exhaust(proxied, hogs)
        for ask in (lambda: person.run(runs[0][0]["id"]), lambda: person.post_run(chat, "tokens:5")):
            asked_at = time.monotonic()
            with pytest.raises(UnexpectedAnswer, match="503"):
                ask()
            in_time(time.monotonic() - asked_at, ANSWER_SECONDS)
    for run, key, reader in runs:
        went_on(proxied, person, run, key, reader, expected_calls=1)


def test_a_locked_row_holds_up_no_other_run(proxied: ProxiedCluster, person: Client) -> None:
    runs = [streaming(person, tokens=320) for _ in range(6)]
    (locked, locked_key, locked_reader), *others = runs
    longer_than_a_window = float(proxied.env["RUN_STALE_SECONDS"]) + 1
    with psycopg.connect(proxied.env["DATABASE_URL"]) as holder:
        holder.execute("SELECT 1 FROM runs_run WHERE id = %s FOR UPDATE", [locked["id"]])
        time.sleep(longer_than_a_window)
        # then those beside it have beaten all the time
        ids = [run["id"] for run, _, _ in others]
        late = "SELECT id FROM runs_run WHERE id::text = ANY(%s) AND heartbeat_at < now() - interval '2 s'"
        assert proxied.query(late, ids) == []
    for run, key, reader in others:
        went_on(proxied, person, run, key, reader, expected_calls=1)
    # nobody could tell whether the locked one lives
    assert audit(proxied, person, locked, locked_key, locked_reader, most_open=2)["status"] == "succeeded"


@pytest.mark.chaos
@pytest.mark.parametrize("rounds", [40, 200])
def test_whoever_ends_a_run_at_the_same_moment_nobody_deadlocks(
    proxied: ProxiedCluster, person: Client, rounds: int
) -> None:
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    before = proxied.query(deadlocks)

    def at_once(_: int) -> set[int]:
        """A run that ends by itself, is stopped by its chat and by its id, and loses its chat."""
        chat = person.chat()
        run = person.post_run(chat, "tokens:3")
        asks = [
            ("POST", f"/api/chats/{chat}/stop"),
            ("POST", f"/api/runs/{run['id']}/stop"),
            ("DELETE", f"/api/chats/{chat}"),
        ]
        with ThreadPoolExecutor(3) as pool:
            return set(pool.map(lambda ask: person.http.request(*ask).status_code, asks))

    with ThreadPoolExecutor(4) as pool:
        answers = set().union(*pool.map(at_once, range(rounds)))
    assert answers <= {200, 204, 404}
    assert proxied.query(deadlocks) == before


def exhaust(cluster: ProxiedCluster, hogs: ExitStack) -> None:
    """Others hold every connection there is, those too that the service had."""
    others = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE backend_type = 'client backend' AND application_name <> 'hog'"
    )
    while True:
        try:
            opened = psycopg.connect(cluster.env["DATABASE_URL"], autocommit=True, application_name="hog")
            hog = hogs.enter_context(opened)
        except psycopg.OperationalError:
            if hog.execute(others).fetchone() == (0,):
                return
