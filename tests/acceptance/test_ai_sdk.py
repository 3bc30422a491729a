"""Pages of the AI SDK, by the real packages: whatever happens, they end with what is stored, part by part."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from tests.acceptance.ai_sdk import Driver, Page, install
from tests.acceptance.audit import calls, error_lines, new_key
from tests.acceptance.client import Client, Json
from tests.acceptance.cluster import Cluster
from tests.acceptance.failpoints import Failpoints

VERSIONS = ["5.0.277", "6.0.0", "6.0.326", "7.0.173"]
NEWEST = VERSIONS[-1]
# Of a fault, every run of the tests sees the newest version; `make chaos` sees them all.
EACH = [version if version == NEWEST else pytest.param(version, marks=pytest.mark.chaos) for version in VERSIONS]

MakePage = Callable[..., Page]


@pytest.fixture(scope="session")
def driver() -> Iterator[Driver]:
    install()
    with Driver() as driver:
        yield driver


@pytest.fixture
def open_page(driver: Driver, client: Client) -> MakePage:
    """A page with a new chat, which gets its id from the page, or one that loads an existing chat."""

    def make(version: str, chat: str | None = None, messages: list[Json] | None = None) -> Page:
        return Page(driver, version, client, chat or str(uuid4()), messages or [])

    return make


def text(tokens: int = 40, rate: float = 0, **more: object) -> str:
    wishes = " ".join(f"{name}:{value}" for name, value in more.items())
    return f"script:text tokens:{tokens} rate:{rate} key:{new_key()} {wishes}"


def hydrate(client: Client, chat: str, *, exclude_active: bool = True) -> tuple[list[Json], str | None]:
    """What a page loads first: the messages, and the run whose answer was left out."""
    url: str | None = f"/api/chats/{chat}/messages?limit=200&exclude_active={int(exclude_active)}"
    messages, run = [], None
    while url:
        answer = client.http.get(url)
        run = answer.headers.get("X-Active-Run", run)
        messages += answer.json()["results"]
        url = answer.json()["next"]
    return messages, run


def assert_whole(client: Client, page: Page, status: str = "completed") -> Json:
    """The page shows what is stored; answers the stored message."""
    stored = client.messages(page.chat)
    assert [message["role"] for message in page.messages] == [message["role"] for message in stored]
    assert page.last["id"] == stored[-1]["id"]
    assert [without_name(part) for part in page.last["parts"]] == stored[-1]["parts"]
    assert page.last["metadata"] == stored[-1]["metadata"]
    assert stored[-1]["status"] == status
    return stored[-1]


def without_name(part: Json) -> Json:
    """Some releases keep the stream's name of a reasoning in its part (5.0.277, 6.0.326), some between them do not."""
    return {name: value for name, value in part.items() if name != "id" or part["type"] != "reasoning"}


def kinds(message: Json) -> list[str]:
    return [part["type"] for part in message["parts"]]


# A turn


def test_a_first_message_and_a_second_one(open_page: MakePage, client: Client) -> None:
    again = text()
    pages = [open_page(version).send(text()) for version in ["5.0.0", *VERSIONS]]
    for page in pages:
        answer = assert_whole(client, page.settled())
        assert (page.seen["status"], page.seen["statuses"], page.seen["lost"]) == ("ready", [200], 0)
        assert answer["text"]
        page.send(again)
    for page in pages:
        assert_whole(client, page.settled())
        assert len(page.messages) == 4
        said = [message for message in client.messages(page.chat) if message["role"] == "user"]
        assert [message["text"] for message in said][1:] == [again]
    names = {message["id"] for page in pages for message in page.messages if message["role"] == "user"}
    assert len(names) == 2 * len(pages)


def test_tools_are_called(open_page: MakePage, client: Client) -> None:
    calculate, zone = 'call:calculate={"expression": "2**64"}', 'call:current_time={"zone": "Europe/Paris"}'
    asked = {
        f"say:3 {calculate} {zone} tokens:5": "output-available",
        "script:unknown_tool tokens:5": "output-error",
        "script:broken_json tokens:5": "output-error",
    }
    pages = [
        (open_page(version).send(f"{wish} key:{new_key()}"), asked[wish]) for version in VERSIONS for wish in asked
    ]
    for page, state in pages:
        answer = assert_whole(client, page.settled())
        assert kinds(answer).count("step-start") == 2
        assert {part["state"] for part in answer["parts"] if part["type"].startswith("tool-")} == {state}


def test_reasoning_is_shown(open_page: MakePage, client: Client) -> None:
    pages = [open_page(version).send(f"script:reasoning tokens:10 key:{new_key()}") for version in VERSIONS]
    for page in pages:
        answer = assert_whole(client, page.settled())
        assert kinds(answer)[:3] == ["step-start", "reasoning", "text"]


def test_a_run_that_is_stopped_ends_at_the_page(open_page: MakePage, client: Client) -> None:
    pages = [open_page(version).send(text(3000, 20)) for version in VERSIONS]
    for page in pages:
        page.wait_text()
        assert client.stop_chat(page.chat)["state"] == "requested"
    for page in pages:
        assert_whole(client, page.settled(), "aborted")
        assert page.seen["lost"] == 0


def test_a_page_that_hangs_up_and_stops_the_run_comes_back_for_its_end(open_page: MakePage, client: Client) -> None:
    pages = [open_page(version).send(text(3000, 20)) for version in VERSIONS]
    for page in pages:
        page.wait_text().stop()
        client.stop_chat(page.chat)
    for page in pages:
        client.wait_terminal(page.run["id"])
        assert_whole(client, page.come_back().settled(), "aborted")


def test_stop_of_the_package_alone_stops_no_run(open_page: MakePage, client: Client) -> None:
    pages = [open_page(version).send(text(100, 50)) for version in VERSIONS]
    for page in pages:
        assert page.wait_text().stop().settled().seen["status"] == "ready"
        assert page.run["status"] == "running"
        page.come_back()
    for page in pages:
        assert_whole(client, page.finished())


def test_a_provider_that_fails_is_told(open_page: MakePage, client: Client) -> None:
    wishes = ("script:status status:400", "script:error after:4")
    pages = [open_page(version).send(f"{wish} key:{new_key()}") for version in VERSIONS for wish in wishes]
    for page in pages:
        answer = assert_whole(client, page.finished(), "error")
        assert page.seen["status"] == "error"
        assert page.seen["error"] == client.run(answer["run_id"])["error"]


def test_a_chat_that_is_busy_says_so(open_page: MakePage, client: Client) -> None:
    for version in VERSIONS:
        page = open_page(version).send(text(3000, 20)).wait_text()
        other = open_page(version, page.chat).send("me too").settled()
        assert other.seen["status"] == "error"
        assert other.seen["statuses"] == [409]
        # the packages differ in whether their error is the text of the answer or says it in its own words
        assert "A run is active in this chat already." in other.seen["error"]
        client.stop_chat(page.chat)
        assert_whole(client, page.settled(), "aborted")


def test_of_many_first_messages_at_once_one_makes_the_chat(client: Client) -> None:
    chat = str(uuid4())
    message = {"id": "m1", "role": "user", "parts": [{"type": "text", "text": text(3000, 20)}]}
    body = {"id": chat, "trigger": "submit-message", "messages": [message]}

    def post(_: int) -> int:
        with client.http.stream("POST", "/api/chat", json=body) as response:
            return response.status_code

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(post, range(8))) == [200] + [409] * 7
    assert [message["role"] for message in client.messages(chat)] == ["user", "assistant"]
    assert client.stop_chat(chat)["stopped"]


# History


def test_an_answer_is_written_anew_and_a_message_edited(open_page: MakePage, client: Client) -> None:
    pages = [open_page(version) for version in VERSIONS]

    def all_do(act: Callable[[Page], Page]) -> None:
        for page in pages:
            act(page)
        for page in pages:
            assert_whole(client, page.settled())

    all_do(lambda page: page.send(text()))
    first = {page: page.last["id"] for page in pages}
    all_do(lambda page: page.send(text()))
    # the last one, without naming it
    last = {page: page.last["id"] for page in pages}
    all_do(lambda page: page.regenerate())
    assert all(len(page.messages) == 4 and page.last["id"] != last[page] for page in pages)
    # an earlier one, which takes with it what came after
    all_do(lambda page: page.regenerate(first[page]))
    assert all(len(page.messages) == 2 and page.last["id"] != first[page] for page in pages)
    # by the message that it answers, under the name that the page gave it
    question = {page: page.messages[0]["id"] for page in pages}
    all_do(lambda page: page.regenerate(question[page]))
    # and that message edited, twice
    for words in (text(), text()):
        all_do(lambda page, words=words: page.send(words, question[page]))
        assert {client.messages(page.chat)[0]["text"] for page in pages} == {words}


def test_a_chat_of_three_hundred_messages(open_page: MakePage, client: Client, cluster: Cluster) -> None:
    pages = []
    for version in VERSIONS:
        chat = client.chat()
        talked(cluster, chat, 300)
        messages, _ = hydrate(client, chat)
        assert len(messages) == 300
        pages.append(open_page(version, chat, messages).send(text()))
    for page in pages:
        assert_whole(client, page.settled())
        stored = client.messages(page.chat)
        assert len(stored) == 302
        assert [message["parts"] for message in page.messages] == [message["parts"] for message in stored]


def talked(cluster: Cluster, chat: str, count: int) -> None:
    """So many messages that were said long ago."""
    said = [{"type": "text", "text": "word"}]
    answered = [{"type": "step-start"}, {"type": "text", "text": "answer", "state": "done"}]
    cluster.query(
        "INSERT INTO chat_message (id, chat_id, role, parts, status, metadata, created_at, updated_at)"
        " SELECT gen_random_uuid(), %s, (ARRAY['user', 'assistant'])[1 + n %% 2], (ARRAY[%s, %s]::jsonb[])[1 + n %% 2],"
        " 'completed', '{}', now() - interval '1 day' + n * interval '1 minute', now()"
        " FROM generate_series(0, %s) n",
        *(chat, json.dumps(said), json.dumps(answered), count - 1),
    )


# Coming back


def test_a_page_that_is_reloaded_and_a_second_tab(open_page: MakePage, client: Client) -> None:
    firsts = [open_page(version).send(text(150, 50)) for version in VERSIONS]
    tabs = []
    for first in firsts:
        first.wait_text()
        messages, run = hydrate(client, first.chat)
        assert (len(messages), run) == (1, first.last["metadata"]["runId"])
        # one asks for the run that is active, one for that which it left out
        tabs += [open_page(first.version, first.chat, messages).resume(wanted) for wanted in (None, run)]
    for page in [*firsts, *tabs]:
        assert_whole(client, page.settled())
        assert (page.seen["status"], page.seen["lost"]) == ("ready", 0)


def test_a_page_that_is_reloaded_just_when_the_run_ends(open_page: MakePage, client: Client) -> None:
    firsts = [open_page(version).send(text(60, 50)) for version in VERSIONS]
    loaded = [(first.wait_text(), *hydrate(client, first.chat)) for first in firsts]
    for first, messages, run in loaded:
        client.wait_terminal(str(run))
        # whoever asks for the run gets it; whoever does not loads the chat again
        page = open_page(first.version, first.chat, messages).resume(run).settled()
        assert page.seen["statuses"] == [200]
        assert_whole(client, page)
        page = open_page(first.version, first.chat, messages).resume().settled()
        assert (page.seen["statuses"], len(page.messages)) == ([204], 1)
        messages, run = hydrate(client, first.chat)
        assert run is None
        assert_whole(client, open_page(first.version, first.chat, messages))


def test_what_ended_while_nobody_looked_is_there(open_page: MakePage, client: Client) -> None:
    firsts = [open_page(version).send(text(60, 50)).wait_text().cut() for version in VERSIONS]
    for first in firsts:
        client.wait_terminal(first.run["id"])
        messages, run = hydrate(client, first.chat)
        assert run is None
        page = open_page(first.version, first.chat, messages).resume().settled()
        assert (page.seen["statuses"], page.seen["error"]) == ([204], None)
        assert_whole(client, page)


def test_a_chat_in_which_nothing_goes_on_stays_as_it_is(open_page: MakePage, client: Client) -> None:
    for version in VERSIONS:
        page = open_page(version, client.chat()).resume().settled()
        assert (page.seen["statuses"], page.seen["error"], page.messages) == ([204], None, [])


def test_a_connection_that_was_lost_is_taken_up(open_page: MakePage, client: Client) -> None:
    pages = [open_page(version).send(text(150, 50)) for version in VERSIONS]
    for page in pages:
        assert page.wait_text(20).cut().seen["status"] == "error"
        page.drop_live().resume()
    for page in pages:
        assert_whole(client, page.settled())
        assert page.seen["statuses"] == [200, 200]


# Faults under a connected page


@pytest.mark.usefixtures("healed")
@pytest.mark.parametrize("version", EACH)
def test_a_worker_is_killed(cluster: Cluster, open_page: MakePage, client: Client, version: str) -> None:
    page = open_page(version).send(text(150, 40)).wait_text(40)
    cluster.holder(page.run).kill()
    assert_whole(client, page.finished())
    assert page.seen["lost"] >= 1
    assert page.run["attempt"] == 2


@pytest.mark.usefixtures("healed")
@pytest.mark.parametrize("version", EACH)
def test_a_worker_leaves(cluster: Cluster, open_page: MakePage, client: Client, version: str) -> None:
    page = open_page(version).send(f"say:5 call:calculate tokens:100 rate:40 key:{new_key()}").wait_text(60)
    leaver = cluster.holder(page.run)
    leaver.terminate()
    assert_whole(client, page.finished())
    assert page.seen["lost"] >= 1
    assert page.run["attempt"] == 2
    assert leaver.wait(5)


def test_redis_forgets_everything(cluster: Cluster, open_page: MakePage, client: Client) -> None:
    pages = [open_page(version).send(text(120, 40)) for version in VERSIONS]
    for page in pages:
        page.wait_text(40)
    with cluster.redis_client() as redis:
        redis.flushall()
    for page in pages:
        assert_whole(client, page.finished())
        assert page.seen["lost"] >= 1
        assert page.run["attempt"] == 1
    # to the web process that is nothing unusual
    assert error_lines(cluster, "stream_broken_off", pages[0].run["id"])
    assert error_lines(cluster, "runs.errors.BrokenOff") == []


@pytest.mark.chaos
@pytest.mark.usefixtures("healed")
@pytest.mark.parametrize("version", VERSIONS)
def test_a_worker_dies_behind_the_settling(
    cluster: Cluster, failpoints: Failpoints, open_page: MakePage, client: Client, version: str
) -> None:
    failpoints.arm("after_settle_before_finish", "kill")
    page = open_page(version).send(text(40, 40))
    failpoints.wait_broken("after_settle_before_finish")
    assert_whole(client, page.finished())
    assert page.seen["lost"] == 1
    assert page.run["attempt"] == 1


def test_the_web_process_is_killed(cluster: Cluster, open_page: MakePage, client: Client) -> None:
    pages = [open_page(version).send(text(200, 40)) for version in VERSIONS]
    for page in pages:
        page.wait_text(40)
    cluster.web.kill()
    for page in pages:
        page.settled()
    cluster.resume_all()
    for page in pages:
        assert page.seen["lost"] == 1
        assert_whole(client, page.come_back().finished())


def test_a_call_that_is_tried_again(cluster: Cluster, open_page: MakePage, client: Client) -> None:
    keys = {version: new_key() for version in VERSIONS}
    wish = "script:status status:500 times:1 tokens:20"
    pages = [open_page(version).send(f"{wish} key:{key}") for version, key in keys.items()]
    for page in pages:
        assert_whole(client, page.settled())
        assert (page.seen["status"], page.seen["lost"]) == ("ready", 0)
        assert len(calls(cluster, keys[page.version])) == 2
