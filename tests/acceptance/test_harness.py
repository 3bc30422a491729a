"""The harness itself: what the other acceptance tests take for granted."""

import pytest

from tests.acceptance.client import Client
from tests.acceptance.cluster import Cluster

LONG = "tokens:400 rate:100"


def test_a_reader_holds_what_is_stored(cluster: Cluster, client: Client) -> None:
    run = client.post_run(client.chat(), "tokens:50")
    reader = client.follow(run).wait_done()
    assert client.wait_terminal(run["id"])["status"] == "succeeded"
    assert reader.text == client.message(run)["text"] != ""
    assert reader.gaps() == []


def test_a_reader_that_was_cut_resumes_where_it_was(cluster: Cluster, client: Client) -> None:
    run = client.post_run(client.chat(), "tokens:200 rate:100")
    reader = client.follow(run).wait_text(100)
    reader.cut()
    starts = reader.message.starts
    reader.resume()
    reader.wait_done()
    assert reader.endings == ["cut", "done"]
    assert reader.gaps() == []
    assert reader.message.starts == starts
    assert reader.text == client.message(run)["text"]


@pytest.mark.chaos
def test_a_killed_worker_can_be_had_again(cluster: Cluster, client: Client) -> None:
    run = client.post_run(client.chat(), LONG)
    reader = client.follow(run, persistent=True).wait_text(100)
    holder = client.run(run["id"])["worker"]
    victim = next(worker for worker in cluster.workers if worker.name in holder)
    victim.kill()
    ended = client.wait_terminal(run["id"])
    reader.wait_done()
    assert (ended["status"], ended["attempt"]) == ("succeeded", 2)
    assert reader.text == client.message(run)["text"]
    cluster.restart(victim)
