"""Attached runs with real processes: who goes away, and what becomes of the run."""

import time
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest

from tests.acceptance.audit import calls, new_key
from tests.acceptance.client import Client
from tests.acceptance.cluster import FAST, Cluster
from tests.timing import in_time

pytestmark = [pytest.mark.alone, pytest.mark.timeout(120), pytest.mark.usefixtures("healed")]

LONG = "script:text tokens:300 rate:30"
DISCONNECT_SECONDS = 2.0
WINDOW_SECONDS = float(FAST["RUN_STALE_SECONDS"]) + float(FAST["RUN_SWEEP_SECONDS"])


@pytest.fixture(scope="module")
def web(cluster: Cluster) -> str:
    return cluster.start_web("web-attached", app="tests.acceptance.web_with_attached:application")


@pytest.fixture
def person(cluster: Cluster) -> Iterator[Client]:
    account = cluster.account()
    switch(cluster, account.workspace_id, on=False)
    with cluster.client(account) as client:
        client.workspace = account.workspace_id  # type: ignore[attr-defined]
        yield client


def switch(cluster: Cluster, workspace: str, *, on: bool) -> None:
    cluster.query("UPDATE chat_workspace SET autonomous_runs = %s WHERE id = %s", on, workspace)


class Creator:
    """Whoever started a run and reads its stream."""

    def __init__(self, web: str, client: Client, text: str) -> None:
        self._http = httpx.Client(base_url=web, trust_env=False, timeout=30)
        request = self._http.build_request("POST", f"/test/start/{client.chat()}", content=text)
        self._response = self._http.send(request, stream=True)
        self.run_id = self._response.headers["X-Run"]
        self._lines = self._response.iter_lines()

    def read_some(self) -> None:
        next(line for line in self._lines if "text-delta" in line)

    def read_all(self) -> list[str]:
        return [line for line in self._lines if line]

    def close(self) -> None:
        self._response.close()
        self._http.close()


def begin(cluster: Cluster, web: str, client: Client) -> tuple[Creator, str]:
    cluster.resume_all()
    key = new_key()
    creator = Creator(web, client, f"{LONG} key:{key}")
    creator.read_some()
    return creator, key


def test_a_disconnect_stops_the_run_within_two_seconds(cluster: Cluster, web: str, person: Client) -> None:
    creator, key = begin(cluster, web, person)
    creator.close()
    closed_at = time.monotonic()
    run = person.wait_terminal(creator.run_id)
    in_time(time.monotonic() - closed_at, DISCONNECT_SECONDS)
    seen = {name: run[name] for name in ("status", "end_reason", "stop_source", "detached")}
    assert seen == {"status": "aborted", "end_reason": "disconnected", "stop_source": "disconnect", "detached": False}
    assert len(calls(cluster, key)) == 1


@pytest.mark.chaos
def test_a_second_reader_changes_nothing(cluster: Cluster, web: str, person: Client) -> None:
    creator, _ = begin(cluster, web, person)
    with closing(creator):
        reader = person.follow(person.run(creator.run_id))
        reader.wait_text(20)
        reader.cut()
        assert creator.read_all()[-1] == "data: [DONE]"
    assert person.wait_terminal(creator.run_id)["status"] == "succeeded"


@pytest.mark.chaos
def test_a_second_reader_keeps_nothing_alive(cluster: Cluster, web: str, person: Client) -> None:
    creator, _ = begin(cluster, web, person)
    reader = person.follow(person.run(creator.run_id))
    reader.wait_text(20)
    creator.close()
    assert person.wait_terminal(creator.run_id)["end_reason"] == "disconnected"


def test_when_the_web_process_is_killed_the_sweep_stops_the_run(cluster: Cluster, web: str, person: Client) -> None:
    creator, _ = begin(cluster, web, person)
    with closing(creator):
        cluster.children["web-attached"].kill()
        killed_at = time.monotonic()
        run = person.wait_terminal(creator.run_id)
    # a heartbeat: what was due when it was killed
    in_time(time.monotonic() - killed_at, WINDOW_SECONDS + 2 * float(FAST["RUN_HEARTBEAT_SECONDS"]) + 1)
    assert (run["status"], run["end_reason"]) == ("aborted", "disconnected")


def test_a_deploy_of_the_web_process_stops_nobody(cluster: Cluster, web: str, person: Client) -> None:
    creator, _ = begin(cluster, web, person)
    with closing(creator):
        cluster.children["web-attached"].terminate()
        # at once, while the stream is still served: whoever leaves now stops nothing
        person.wait_run(creator.run_id, lambda run: bool(run["detached"]), DISCONNECT_SECONDS)
        creator.close()
        assert cluster.children["web-attached"].wait(20)
        run = person.wait_terminal(creator.run_id)
    assert (run["status"], run["detached"], run["stop_requested_at"]) == ("succeeded", True, None)


@pytest.mark.chaos
def test_an_open_stream_keeps_its_run_for_many_windows(cluster: Cluster, web: str, person: Client) -> None:
    creator, _ = begin(cluster, web, person)
    with closing(creator):
        assert creator.read_all()[-1] == "data: [DONE]"
    run = person.wait_terminal(creator.run_id)
    assert (run["status"], run["detached"]) == ("succeeded", False)


@pytest.mark.chaos
def test_with_the_switch_on_a_disconnect_stops_nothing(cluster: Cluster, web: str, person: Client) -> None:
    switch(cluster, person.workspace, on=True)  # type: ignore[attr-defined]
    creator, _ = begin(cluster, web, person)
    creator.close()
    run = person.wait_terminal(creator.run_id)
    assert (run["status"], run["detached"], run["stop_requested_at"]) == ("succeeded", True, None)
    assert cluster.children["web-attached"].has_said("creator_disconnected")
