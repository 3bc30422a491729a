"""The clients of `docs/clients.md`, as they stand there: whatever happens on the way, they end with what is stored."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from playwright.sync_api import Page, sync_playwright

from config.processes import wait_until
from tests.acceptance import rough
from tests.acceptance.audit import new_key
from tests.acceptance.client import Client
from tests.acceptance.cluster import Cluster
from tests.acceptance.programs import ANEW, CLIENTS, Program, answer_to, block, environment
from tests.acceptance.proxy import Proxy
from tests.acceptance.rough import RoughServer
from tests.acceptance.test_page import ARGUMENTS, CHROMIUM
from tests.timing import in_time

Ask = Callable[..., list[tuple[Program, str]]]


@pytest.fixture
def way(cluster: Cluster) -> Iterator[Proxy]:
    """To the web process; it can be cut."""
    address = urlsplit(cluster.address)
    proxy = Proxy((address.hostname or "", address.port or 0)).start()
    yield proxy
    proxy.stop()


@pytest.fixture
def ask(way: Proxy, client: Client, tmp_path: Path) -> Iterator[Ask]:
    """Both clients, started at once, each with what it asks."""
    with ExitStack() as stack:

        def ask(wishes: str, languages: Iterable[str] = CLIENTS) -> list[tuple[Program, str]]:
            texts = {language: f"{wishes} key:{new_key()}" for language in languages}
            address = f"http://127.0.0.1:{way.port}"
            return [
                (stack.enter_context(Program(language, tmp_path, address, token_of(client), text)), text)
                for language, text in texts.items()
            ]

        yield ask


def token_of(client: Client) -> str:
    return client.headers["Authorization"].removeprefix("Token ")


def test_what_is_printed_is_what_is_stored(ask: Ask, client: Client) -> None:
    for program, text in ask("say:5 call:calculate tokens:100"):
        printed = program.ended()
        run, message = answer_to(client, text)
        assert printed == message["text"] != ""
        assert program.said == f"\nsucceeded, {len(printed)} characters\n"
        assert run["step_count"] == 2


def test_connections_that_are_cut_are_taken_up(ask: Ask, way: Proxy, client: Client) -> None:
    asked = ask("tokens:100 rate:60")
    for length in (20, 250):
        for program, _ in asked:
            program.wait_text(length)
        way.refuse()
        way.pass_on()
    for program, text in asked:
        printed = program.ended()
        _, message = answer_to(client, text)
        # once, so it was the suffix that came
        assert printed == message["text"] != ""
        assert program.said.startswith("\nsucceeded")


def test_a_turn_whose_answer_is_lost_is_one_turn(ask: Ask, way: Proxy, client: Client) -> None:
    for language in CLIENTS:
        trap = way.lose_reply(b"POST /api/chats/", b"/runs")
        ((program, text),) = ask("tokens:5", [language])
        printed = program.ended()
        assert trap.sprung.is_set()
        _, message = answer_to(client, text)
        assert printed == message["text"] != ""


@pytest.mark.chaos
def test_a_message_that_begins_anew_is_begun_anew(ask: Ask, cluster: Cluster, client: Client) -> None:
    asked = ask("tokens:70 rate:60")
    for program, _ in asked:
        program.wait_text(20)
    with cluster.redis_client() as redis:
        redis.flushall()
    for program, text in asked:
        before, printed = program.ended().split(ANEW)
        _, message = answer_to(client, text)
        assert printed == message["text"]
        assert printed.startswith(before)


def test_ctrl_c_stops_the_run(ask: Ask, client: Client) -> None:
    asked = ask("tokens:3000 rate:20")
    for program, _ in asked:
        program.wait_text(20)
        program.interrupt()
    for program, text in asked:
        printed = program.ended()
        run, message = answer_to(client, text)
        assert (run["status"], run["end_reason"]) == ("aborted", "stopped")
        assert printed == message["text"] != ""
        assert program.said.startswith("\naborted")


def test_a_rough_way(tmp_path: Path) -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(RoughServer()) for _ in CLIENTS]
        programs = [
            stack.enter_context(Program(language, tmp_path, server.address, "token", "hello"))
            for language, server in zip(CLIENTS, servers, strict=True)
        ]
        for server, program in zip(servers, programs, strict=True):
            # once by the suffix, then "another" message, whose ids nobody gave out, then the last
            assert program.ended() == f"{rough.TEXT}{ANEW}another{ANEW}{rough.TEXT}"
            assert program.said == f"\n{rough.STATUS}, {len(rough.TEXT)} characters\n"
            assert [request.header for request in server.sent("GET /api/runs/r/stream")] == [None, "1-2", None]
            first, second, third = server.sent("POST /api/chats/c/runs")
            assert first.header == second.header == third.header is not None
            assert second.at - first.at >= 1


# A stand-in for machines without curl: of its options those that the page uses, and an error for any other.
STAND_IN = """#!{python}
import argparse, sys, urllib.request
parser = argparse.ArgumentParser()
parser.add_argument("-sS", action="store_true")
parser.add_argument("-N", action="store_true")
parser.add_argument("-X", dest="method")
parser.add_argument("-H", dest="headers", action="append")
parser.add_argument("-d", dest="data")
parser.add_argument("url")
asked = parser.parse_args()
headers = dict(header.split(": ", 1) for header in asked.headers)
data = asked.data and asked.data.encode()
request = urllib.request.Request(asked.url, data, headers, method=asked.method)
sys.stdout.buffer.write(urllib.request.urlopen(request).read())
"""


def test_the_lines_with_curl(cluster: Cluster, client: Client, tmp_path: Path) -> None:
    (tmp_path / "curl").write_text(STAND_IN.format(python=sys.executable))
    (tmp_path / "curl").chmod(0o755)
    path = environment("", "")["PATH"]
    paths = [f"{tmp_path}:{path}", *([path] if shutil.which("curl") else [])]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda path: assert_lines_with_curl(cluster, client, path), paths))


def assert_lines_with_curl(cluster: Cluster, client: Client, path: str) -> None:
    chat, run = str(uuid4()), str(uuid4())
    env = {**environment(cluster.address, token_of(client)), "PATH": path, "CHAT": chat, "RUN": run}
    done = subprocess.run(["sh", "-eu", "-c", block("sh")], env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    for answer in ('"status":"running"', '"state":"requested"', "data: [DONE]"):
        assert answer in done.stdout
    assert client.run(run)["status"] == "aborted"
    assert client.messages(chat)[-1]["text"] in done.stdout


# Both ways to follow a run in a page: each is a block of its own, with a `follow` of its own.
FOLLOWERS = """
() => {{
  window.listen = (() => {{
    {listening}
    return follow;
  }})();
  window.fetched = (token) => {{
    const process = {{ env: {{ PERDURE_URL: "", PERDURE_TOKEN: token }} }};
    {fetching}
    return follow;
  }};
}}
"""
# A turn of the person whose page it is, followed by both.
TURN = """
async ([text, token]) => {
  const csrf = document.cookie.match(/csrftoken=([^;]*)/)[1];
  const headers = { "Content-Type": "application/json", "X-CSRFToken": csrf };
  const post = async (path, json) =>
    (await fetch(path, { method: "POST", headers, body: JSON.stringify(json) })).json();
  const chat = await post("/api/chats", {});
  const run = await post(`/api/chats/${chat.id}/runs`, { text });
  window.shown = [""];
  window.whole = {};
  listen(run, (text) => shown.push(text), (text) => (whole.listened = text));
  (async () => {
    let text = "";
    for await (const chunk of fetched(token)(run)) text += chunk.delta ?? "";
    whole.fetched = text;
  })();
  return run;
}
"""


@pytest.fixture
def page(cluster: Cluster, client: Client, way: Proxy) -> Iterator[Page]:
    """Of somebody who is logged in, with both clients for a page."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine (.ci/run installs it)")
    account = cluster.account("alice")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(bypass_csp=True)  # else nothing could be waited for
        page.goto(f"http://127.0.0.1:{way.port}/tokens")
        page.fill("#id_username", account.username)
        page.fill("#id_password", account.password)
        page.click("button[type=submit]")
        page.wait_for_url("**/tokens")
        functions, _ = block("javascript").split("// The program")
        page.evaluate(FOLLOWERS.format(listening=block("js"), fetching=functions))
        yield page
        browser.close()


@pytest.mark.chaos
def test_pages_whose_connections_are_cut(page: Page, way: Proxy, client: Client) -> None:
    run = page.evaluate(TURN, ["tokens:120 rate:40", token_of(client)])
    page.wait_for_function("shown.at(-1).length > 100")
    way.reset()
    page.wait_for_function("whole.listened && whole.fetched", timeout=30_000)
    whole, shown = page.evaluate("[whole, shown]")
    assert whole["listened"] == whole["fetched"] == client.message(run)["text"] != ""
    # never begun anew: it was the suffix that came
    assert shown == sorted(shown, key=len)


# A hole in the network, and a model that says nothing for long


@pytest.mark.chaos
def test_a_connection_that_is_silent_is_left(ask: Ask, way: Proxy, client: Client) -> None:
    asked = ask("tokens:200 rate:40")
    for program, _ in asked:
        program.wait_text(100)
    known = way.connections
    way.swallow()
    silent_since = time.monotonic()
    # each comes back, into the same hole
    assert wait_until(lambda: way.connections >= known + len(asked), 40)
    in_time(time.monotonic() - silent_since, 35)
    way.pass_on()
    for program, text in asked:
        printed = program.ended()
        _, message = answer_to(client, text)
        assert printed == message["text"] != ""


@pytest.mark.chaos
def test_a_connection_that_says_only_that_it_is_there_is_kept(ask: Ask, way: Proxy, client: Client) -> None:
    asked = ask("tokens:5 delay:40")
    time.sleep(8)  # connections that nobody uses are closed by then
    streams = set(way.links)
    assert len(streams) == len(asked)
    time.sleep(30)
    assert streams == way.links
    for program, text in asked:
        printed = program.ended()
        _, message = answer_to(client, text)
        assert printed == message["text"] != ""
