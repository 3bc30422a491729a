"""The provider refuses, limits, stalls, breaks off and talks nonsense, through the real model client."""

from typing import Any

import httpx
import pytest

from agents.answer import LONGEST_ARGUMENTS, MOST_CALLS
from agents.loop import RETRY_PAUSES
from tests.acceptance.audit import audit, calls, new_key
from tests.acceptance.client import Client, Json
from tests.acceptance.proxied import ProxiedCluster
from tests.acceptance.reader import Reader

pytestmark = [pytest.mark.alone, pytest.mark.timeout(300)]

MIB = 1024 * 1024


def longer(*values: str) -> list[Any]:
    """More of the same, for `make chaos`; `tests/agents/test_clients.py` has all of them with the client alone."""
    return [pytest.param(value, marks=pytest.mark.chaos) for value in values]


def ask(client: Client, wishes: str) -> tuple[Json, str, Reader]:
    key = new_key()
    run = client.post_run(client.chat(), f"{wishes} key:{key}")
    return run, key, client.follow(run)


def retries(reader: Reader) -> list[Json]:
    """What the reader was told about model calls that are tried again."""
    chunks = [event.chunk for event in reader.events if event.chunk and event.chunk["type"] == "data-run"]
    return [chunk["data"]["retry"] for chunk in chunks if "retry" in chunk["data"]]


def assert_no_secret(cluster: ProxiedCluster, client: Client, run: Json, reader: Reader) -> None:
    """The key, which the provider's errors echo, is in no row, no log and no answer."""
    secret = cluster.env["OPENAI_API_KEY"]
    assert secret.startswith("sk-canary")
    tables = cluster.query("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
    for (table,) in tables:
        assert cluster.query(f'SELECT 1 FROM "{table}" AS t WHERE t::text LIKE %s LIMIT 1', f"%{secret}%") == [], table
    logs = [child.log for child in cluster.children.values()]
    assert [log for log in logs if secret in log.read_text(errors="replace")] == []
    paths = ("", "/steps", "/stream")
    told = [client.http.get(f"/api/runs/{run['id']}{path}").text for path in paths]
    told += [client.http.get(f"/api/chats/{run['chat_id']}/messages").text, str(reader.events)]
    assert not any(secret in text for text in told)
    with cluster.redis_client() as redis:
        assert not any(secret in str(entry) for entry in redis.xrange(f"run:{run['id']}:log"))


@pytest.mark.parametrize("wishes", ["status:401", "script:overflow", *longer("status:400", "status:403", "status:404")])
def test_a_permanent_error_fails_the_run_after_one_call_and_tells_no_secret(
    proxied: ProxiedCluster, person: Client, wishes: str
) -> None:
    run, key, reader = ask(person, wishes)
    run = audit(proxied, person, run, key, reader, expected_calls=1)
    assert (run["status"], run["end_reason"]) == ("failed", "provider_error")
    assert run["error"]
    assert retries(reader) == []
    assert_no_secret(proxied, person, run, reader)


@pytest.mark.parametrize(
    ("wishes", "code", "seconds"),
    [
        ("status:429 retry_after:2", "rate_limit", 2),
        ("status:500", "provider_error", RETRY_PAUSES[0]),
        ("status:503", "overloaded", RETRY_PAUSES[0]),
        ("script:reset after:0", None, RETRY_PAUSES[0]),
        ("script:eof after:0", None, RETRY_PAUSES[0]),
        ("script:error after:0", None, RETRY_PAUSES[0]),
        ("script:no_finish after:0", "stream_truncated", RETRY_PAUSES[0]),
    ],
)
def test_an_error_before_anything_was_shown_is_tried_again_before_the_reader_s_eyes(
    proxied: ProxiedCluster, person: Client, wishes: str, code: str | None, seconds: float
) -> None:
    run, key, reader = ask(person, f"{wishes} times:1 tokens:10")
    run = audit(proxied, person, run, key, reader, expected_calls=2)
    assert run["status"] == "succeeded"
    (retry,) = retries(reader)
    assert (retry["attempt"], retry["inSeconds"]) == (1, seconds)
    assert code in (None, retry["reason"])
    first, second = calls(proxied, key)
    assert second["opened_at"] - first["closed_at"] >= seconds


@pytest.mark.chaos
def test_errors_that_do_not_pass_fail_the_run_after_all_tries(proxied: ProxiedCluster, person: Client) -> None:
    asked = [ask(person, f"status:{status}") for status in (429, 500, 503)]
    for run, key, reader in asked:
        run = audit(proxied, person, run, key, reader, expected_calls=len(RETRY_PAUSES) + 1)
        assert (run["status"], run["end_reason"]) == ("failed", "provider_error")
        assert [retry["inSeconds"] for retry in retries(reader)] == list(RETRY_PAUSES)
        assert_no_secret(proxied, person, run, reader)


def test_a_provider_that_refuses_connections_is_tried_again_until_it_listens(
    proxied: ProxiedCluster, person: Client
) -> None:
    proxied.to_model.refuse()
    run, key, reader = ask(person, "tokens:10")
    reader.wait_for(lambda: len(retries(reader)) == 2)
    proxied.to_model.pass_on()
    assert audit(proxied, person, run, key, reader, expected_calls=1)["status"] == "succeeded"
    assert {retry["reason"] for retry in retries(reader)} <= {"connection", "provider_error"}


@pytest.mark.parametrize("script", ["no_headers", *longer("hang")])
def test_a_provider_that_never_speaks_is_given_up_after_the_stall_time(
    proxied: ProxiedCluster, person: Client, script: str
) -> None:
    run, key, reader = ask(person, f"script:{script} times:1 tokens:10")
    run = audit(proxied, person, run, key, reader, expected_calls=2)
    assert run["status"] == "succeeded"
    silent = calls(proxied, key)[0]
    assert silent["outcome"] == "client_closed"
    assert silent["closed_at"] - silent["opened_at"] == pytest.approx(stall_seconds(proxied), abs=1)


@pytest.mark.parametrize("script", longer("stall", "drip every:1", "keepalive every:0.5"))
def test_a_provider_that_falls_silent_fails_the_run_after_the_stall_time(
    proxied: ProxiedCluster, person: Client, script: str
) -> None:
    run, key, reader = ask(person, f"script:{script} after:3")
    run = audit(proxied, person, run, key, reader, expected_calls=1)
    assert (run["status"], run["end_reason"]) == ("failed", "provider_error")
    (call,) = calls(proxied, key)
    assert call["closed_at"] - call["first_chunk_at"] == pytest.approx(stall_seconds(proxied), abs=1)
    assert person.message(run)["text"] == call["sent_text"] != ""


def stall_seconds(cluster: ProxiedCluster) -> float:
    return float(cluster.env["MODEL_STALL_SECONDS"])


@pytest.mark.chaos
def test_a_run_that_only_talks_ends_at_its_deadline_and_keeps_what_was_said(
    proxied: ProxiedCluster, person: Client
) -> None:
    hurried = proxied.start_web("web-hurried", {"RUN_TIMEOUT_SECONDS": "5"})
    key, chat = new_key(), person.chat()
    started = httpx.post(
        f"{hurried}/api/chats/{chat}/runs", json={"text": f"tokens:1000 rate:10 key:{key}"}, headers=person.headers
    )
    assert started.status_code == 202
    proxied.children.pop("web-hurried").stop(10)
    reader = person.follow(started.json())
    run = audit(proxied, person, started.json(), key, reader, expected_calls=1)
    assert (run["status"], run["end_reason"]) == ("failed", "timeout")
    (call,) = calls(proxied, key)
    assert call["closed_at"] - call["opened_at"] == pytest.approx(5, abs=1)
    assert len(person.message(run)["text"]) > 100


@pytest.mark.parametrize("script", ["reset", "no_finish", *longer("eof", "malformed", "error")])
def test_an_answer_that_broke_off_never_passes_for_a_whole_one(
    proxied: ProxiedCluster, person: Client, script: str
) -> None:
    run, key, reader = ask(person, f"script:{script} after:5 rate:50")
    run = audit(proxied, person, run, key, reader, expected_calls=1)
    assert (run["status"], run["end_reason"]) == ("failed", "provider_error")
    assert_no_secret(proxied, person, run, reader)


@pytest.mark.parametrize(
    ("wishes", "size"),
    [
        ("script:empty", 0),
        ("script:only_reasoning tokens:5", 0),
        (f"script:big_delta size:{MIB}", MIB),
        ("script:many_deltas size:8", 80_000),
        ("script:no_usage tokens:5 size:8", 40),
        ("script:length tokens:5 size:8", 40),
    ],
)
def test_what_a_provider_may_say_is_stored_and_streamed(
    proxied: ProxiedCluster, person: Client, wishes: str, size: int
) -> None:
    run, key, reader = ask(person, wishes)
    run = audit(proxied, person, run, key, reader, expected_calls=1)
    assert run["status"] == "succeeded"
    assert len(person.message(run)["text"].encode()) == size
    assert reader.message.reasoning == calls(proxied, key)[0]["sent_reasoning"]
    assert run["usage"]["estimated"] == ("no_usage" in wishes)


def test_text_that_no_database_takes_is_stored_with_replacements(proxied: ProxiedCluster, person: Client) -> None:
    run, _, reader = ask(person, "script:nul")
    run = person.wait_terminal(run["id"])
    assert run["status"] == "succeeded"
    assert person.message(run)["text"] == reader.wait_done().text == "before\ufffdafter lone \ufffd and \ufffd end"


@pytest.mark.parametrize(
    ("wishes", "calls_of_first_step", "told"),
    [
        ("script:broken_json", 1, "not valid JSON"),
        ("script:unknown_tool", 1, "no tool named no_such_tool"),
        ("script:duplicate_ids", 2, None),
        ("script:many_calls", MOST_CALLS, None),
        (f"script:big_arguments tokens:0 size:{5 * MIB}", 1, str(LONGEST_ARGUMENTS)),
        ('call:calculate={"expression":"1/0"}', 1, "zero"),
    ],
)
def test_a_model_that_calls_tools_wrongly_is_told_and_goes_on(
    proxied: ProxiedCluster, person: Client, wishes: str, calls_of_first_step: int, told: str | None
) -> None:
    run, key, reader = ask(person, wishes)
    run = audit(proxied, person, run, key, reader, expected_calls=2)
    assert run["status"] == "succeeded"
    tools = list(reader.message.tools.values())
    assert len(tools) == calls_of_first_step
    if told is None:
        assert {tool["type"] for tool in tools} == {"tool-output-available"}
    else:
        assert told in tools[0]["errorText"]
        answers = [message["content"] for message in calls(proxied, key)[1]["messages"] if message["role"] == "tool"]
        assert told in answers[0]


def test_an_endless_loop_of_tool_calls_ends_at_the_budget_of_steps(proxied: ProxiedCluster, person: Client) -> None:
    run, key, reader = ask(person, "script:endless")
    run = audit(proxied, person, run, key, reader)
    assert run["status"] == "succeeded"
    assert len(calls(proxied, key)) == run["step_count"] == run["limits"]["steps"]
