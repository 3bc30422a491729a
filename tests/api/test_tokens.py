"""Tokens of programs: made, shown, used and revoked, on the page and in the admin site."""

import json
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from io import StringIO
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.core.management import call_command
from django.db import Error, connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from chat.models import Token
from chat.tokens import MOST_PER_PERSON, TooManyTokens, issue, note_use
from tests.api.callers import Api, assert_refused, nothing_changed, token_of
from tests.factories import UserFactory

pytestmark = pytest.mark.django_db

PAGE = "/tokens"
ADMIN = "/admin/chat/token/"


@pytest.fixture
def browser(person: Any) -> Client:
    client = Client()
    client.force_login(person)
    return client


@pytest.fixture
def admin() -> Client:
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("root"))
    return client


def made(browser: Client, **fields: Any) -> tuple[Token, str]:
    """The token that the page makes with these fields, and its secret."""
    response = browser.post(PAGE, {"name": "laptop", "days": "30", **fields})
    assert response.status_code == 201, response.text
    return Token.objects.latest("created"), shown_secret(response)


def shown_secret(response: Any) -> str:
    (secret,) = re.findall(r"\b[0-9a-f]{64}\b", response.text)
    return str(secret)


def me(secret: str) -> Any:
    return Api().get("/api/me", headers={"Authorization": f"Token {secret}"})


def used_at(token: Token) -> Any:
    return Token.objects.get(pk=token.pk).last_used_at


# The page


def test_a_token_made_on_the_page_lets_a_program_in(browser: Client, person: Any) -> None:
    token, secret = made(browser, name="  laptop ", days="7")
    assert (token.user, token.name, token.token_key) == (person, "laptop", secret[:15])
    assert timedelta(days=6.99) < token.expiry - timezone.now() < timedelta(days=7)
    assert me(secret).json()["id"] == person.pk


def test_the_secret_is_shown_once_and_kept_nowhere(browser: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    response = browser.post(PAGE, {"name": "laptop", "days": "30"})
    secret = shown_secret(response)
    assert "no-store" in response["Cache-Control"]
    assert secret not in browser.get(PAGE).text
    assert secret not in str(Token.objects.values_list())
    assert secret not in json.dumps([dict(browser.session), str(response.headers), str(browser.cookies)])
    assert secret not in caplog.text


def test_the_page_lists_whose_it_is_how_it_begins_and_when_it_was_used(browser: Client, person: Any) -> None:
    for name, options in (("fresh", {"expiry": timedelta(days=3)}), ("old", {"expiry": -timedelta(days=3)}), ("x", {})):
        token_of(person, name=name, **options)
    fresh, old, eternal = Token.objects.order_by("created")
    used = timezone.now().replace(year=2020)
    Token.objects.filter(pk=fresh.pk).update(last_used_at=used)
    response = browser.get(PAGE)
    assert "no-store" in response["Cache-Control"]
    rows = [re.sub(r"<[^>]*>|\s+", " ", row) for row in re.findall(r"<tr.*?</tr>", response.text, re.DOTALL)]
    last, middle, first = (" ".join(row.split()) for row in rows[1:])
    today = timezone.now().date()
    begins = f"{today}"
    assert first == f"fresh {fresh.token_key} {begins} {fresh.expiry.date()} {used:%Y-%m-%d %H:%M} Revoke"
    assert middle == f"old {old.token_key} {begins} expired {old.expiry.date()} never Revoke"
    assert last == f"x {eternal.token_key} {begins} never never Revoke"
    assert not any(token.digest in response.text for token in (fresh, old, eternal))


def test_nobody_sees_the_tokens_of_another(browser: Client) -> None:
    token_of(UserFactory(), name="theirs")
    assert "theirs" not in browser.get(PAGE).text
    assert "You have no tokens." in browser.get(PAGE).text


def test_a_revoked_token_lets_nobody_in_and_the_others_still_do(browser: Client) -> None:
    token, secret = made(browser)
    _, other = made(browser)
    assert browser.post(f"{PAGE}/{token.pk}/revoke").url == PAGE
    assert_refused(me(secret), "NOT_AUTHENTICATED")
    assert me(other).status_code == 200
    assert browser.post(f"{PAGE}/{token.pk}/revoke").status_code == 404


def test_an_expired_token_lets_nobody_in_and_stays_in_the_list(browser: Client) -> None:
    token, secret = made(browser)
    Token.objects.filter(pk=token.pk).update(expiry=timezone.now())
    assert_refused(me(secret), "NOT_AUTHENTICATED")
    assert used_at(token) is None
    assert "expired" in browser.get(PAGE).text


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "   "},
        {"name": "\u200b\u200d"},
        {"name": "x" * 101},
        {"name": "a\0b"},
        {"name": ["", ""]},
        *({"days": days} for days in ("", "0", "-7", "8", "7.0", "1e3", "7 days", "x", "\0", "9" * 5000, ["7", ""])),
    ],
)
def test_what_makes_no_token_is_refused_with_the_reason(browser: Client, fields: Any) -> None:
    with nothing_changed():
        response = browser.post(PAGE, {"name": "laptop", "days": "30", **fields})
    assert response.status_code == 400
    assert 'role="alert"' in response.text


def test_a_form_without_fields_is_refused(browser: Client) -> None:
    with nothing_changed():
        assert browser.post(PAGE).status_code == 400
        assert browser.post(PAGE, "[]", "application/json").status_code == 400


@pytest.mark.parametrize("name", ["x" * 100, "é" * 100, "<script>alert(1)</script>", "{{ 7 }}", "\u202egnp.exe"])
def test_a_name_is_shown_as_it_was_given(browser: Client, name: str) -> None:
    token, _ = made(browser, name=name)
    assert token.name == name
    assert "<script>alert" not in browser.get(PAGE).text


def test_a_person_has_so_many_tokens_and_no_more(browser: Client, person: Any) -> None:
    for _ in range(MOST_PER_PERSON - 1):
        token_of(person, expiry=-timedelta(days=1))
    token_of(UserFactory())
    made(browser)
    with nothing_changed(), pytest.raises(TooManyTokens):
        issue(person, "x", timedelta(days=1))
    refused = browser.post(PAGE, {"name": "one more", "days": "30"})
    assert (refused.status_code, "Revoke one first." in refused.text) == (400, True)
    assert Token.objects.filter(user=person).count() == MOST_PER_PERSON


def test_nobody_revokes_the_token_of_another(browser: Client) -> None:
    token_of(UserFactory())
    with nothing_changed():
        foreign = browser.post(f"{PAGE}/{Token.objects.get().pk}/revoke")
        absent = browser.post(f"{PAGE}/{uuid4()}/revoke")
    assert foreign.status_code == absent.status_code == 404
    assert foreign.content == absent.content


@pytest.mark.parametrize("what", ["x", "1", "%00", "..%2f", str(UUID(int=7))[:-1], ""])
def test_what_is_no_id_of_a_token_is_not_found(browser: Client, what: str) -> None:
    assert browser.post(f"{PAGE}/{what}/revoke").status_code == 404


def test_a_token_is_made_and_revoked_by_post_only(browser: Client) -> None:
    token, _ = made(browser)
    with nothing_changed():
        for method in (browser.get, browser.put, browser.patch, browser.delete):
            assert method(f"{PAGE}/{token.pk}/revoke").status_code == 405
        browser.get(f"{PAGE}?name=x&days=7")


def test_neither_a_stranger_nor_a_program_reaches_the_page(program: Api) -> None:
    token = Token.objects.get()
    with nothing_changed():
        for client in (Client(), program):
            for response in (
                client.get(PAGE),
                Client.post(client, PAGE, {"name": "x", "days": "7"}),
                Client.post(client, f"{PAGE}/{token.pk}/revoke"),
            ):
                assert (response.status_code, response.url.partition("?")[0]) == (302, "/login")


def test_the_chat_page_links_to_the_tokens(browser: Client) -> None:
    assert 'href="/tokens"' in browser.get("/").text


def test_the_page_needs_no_more_than_its_policy_allows(browser: Client) -> None:
    response = browser.get(PAGE)
    assert "default-src 'self'" in response["Content-Security-Policy"]
    assert not re.search(r"<script|<style|\bstyle=|\bon\w+=", response.text)


# Their use


def test_the_last_use_is_written_once_a_minute_and_not_with_every_request(browser: Client) -> None:
    token, secret = made(browser)
    assert used_at(token) is None
    with CaptureQueriesContext(connection) as first:
        me(secret)
    noted = used_at(token)
    assert timezone.now() - noted < timedelta(minutes=1)
    with CaptureQueriesContext(connection) as second:
        me(secret)
    assert used_at(token) == noted
    updates = [sum("UPDATE " in query["sql"].split("FOR UPDATE")[0] for query in run) for run in (first, second)]
    assert updates == [1, 0]
    Token.objects.filter(pk=token.pk).update(last_used_at=noted - timedelta(seconds=61))
    me(secret)
    assert used_at(token) > noted


def test_of_requests_that_saw_the_same_old_use_one_writes(person: Any) -> None:
    token_of(person)
    stale = Token.objects.get()
    note_use(stale)
    noted = used_at(stale)
    note_use(stale)
    assert used_at(stale) == noted


def test_a_refused_token_was_not_used(browser: Client) -> None:
    token, secret = made(browser)
    assert_refused(me(secret[:15] + "0" * 49), "NOT_AUTHENTICATED")
    get_user_model().objects.update(is_active=False)
    assert_refused(me(secret), "NOT_AUTHENTICATED")
    assert used_at(token) is None


def test_a_use_that_cannot_be_written_fails_no_request(browser: Client) -> None:
    token, secret = made(browser)

    def broken(execute: Any, sql: str, *rest: Any) -> Any:
        if sql.startswith('UPDATE "chat_token"'):
            raise Error
        return execute(sql, *rest)

    with connection.execute_wrapper(broken):
        assert me(secret).status_code == 200
    assert used_at(token) is None


@pytest.mark.django_db(transaction=True)
def test_a_use_waits_for_nobody_who_holds_the_row(person: Any) -> None:
    headers = token_of(person)

    def ask() -> int:
        try:
            return Api().get("/api/me", headers=headers).status_code
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool, transaction.atomic():
        Token.objects.select_for_update().get()
        assert pool.submit(ask).result(timeout=2) == 200
    assert Token.objects.get().last_used_at is None


# The admin site, and the command


def test_the_admin_shows_the_secret_of_a_new_token_once_and_never_a_digest(admin: Client, person: Any) -> None:
    added = admin.post(f"{ADMIN}add/", {"name": "batch", "user": person.pk}, follow=True)
    secret, token = shown_secret(added), Token.objects.get()
    assert (token.user, token.name, token.expiry) == (person, "batch", None)
    assert me(secret).json()["id"] == person.pk
    for page in (admin.get(f"{ADMIN}?q=bat"), admin.get(f"{ADMIN}{token.pk}/change/"), admin.get("/admin/")):
        assert page.status_code == 200
        assert "batch" in page.text
        assert secret not in page.text
        assert token.digest not in page.text


def test_the_admin_lists_owner_and_last_use_and_changes_nothing(admin: Client, person: Any) -> None:
    token_of(person, name="batch")
    token = Token.objects.get()
    Token.objects.update(last_used_at=timezone.now().replace(year=2020))
    page = admin.get(ADMIN)
    assert person.username in page.text
    assert token.token_key in page.text
    assert " 2020" in page.text
    with nothing_changed():
        assert admin.post(f"{ADMIN}{token.pk}/change/", {"name": "other", "user": person.pk}).status_code == 403


def test_the_admin_revokes_a_token(admin: Client, person: Any) -> None:
    headers = token_of(person)
    assert admin.post(f"{ADMIN}{Token.objects.get().pk}/delete/", {"post": "yes"}).status_code == 302
    assert_refused(Api().get("/api/me", headers=headers), "NOT_AUTHENTICATED")


@pytest.mark.parametrize("fields", [{"name": ""}, {"name": "x" * 101}, {"name": "\0"}, {"user": ""}, {"user": "0"}])
def test_the_admin_makes_no_token_of_nonsense(admin: Client, person: Any, fields: dict[str, str]) -> None:
    with nothing_changed():
        response = admin.post(f"{ADMIN}add/", {"name": "batch", "user": person.pk, **fields})
    assert set(response.context["adminform"].errors) == set(fields)


def test_who_may_only_look_makes_and_revokes_none(person: Any) -> None:
    token_of(person)
    looker = get_user_model().objects.create_user("looker", is_staff=True)
    looker.user_permissions.add(Permission.objects.get(codename="view_token"))
    client = Client()
    client.force_login(looker)
    assert client.get(ADMIN).status_code == 200
    with nothing_changed():
        assert client.post(f"{ADMIN}add/", {"name": "x", "user": looker.pk}).status_code == 403
        assert client.post(f"{ADMIN}{Token.objects.get().pk}/delete/", {"post": "yes"}).status_code == 403


def test_a_user_is_deleted_with_their_tokens(person: Any) -> None:
    token_of(person)
    person.delete()
    assert not Token.objects.exists()


def test_bootstrap_names_the_token_it_makes() -> None:
    line = StringIO()
    call_command("bootstrap", username="first", password="x", stdout=line)
    assert me(json.loads(line.getvalue())["token"]).json()["username"] == "first"
    assert Token.objects.get().name == "bootstrap"
