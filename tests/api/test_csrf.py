"""What a page of another site could have a browser send: refused on every unsafe route and every page, and nothing
changes."""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from django.urls import URLPattern, URLResolver, reverse

from chat import pages
from chat.models import Chat, Token
from runs.models import Run
from tests.api.callers import Api, assert_refused, by_session, nothing_changed, token_of
from tests.api.routes import Operation, operations
from tests.factories import UserFactory, run_in

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis")]

UNSAFE = [operation for operation in operations() if operation.is_unsafe]
FORM = "application/x-www-form-urlencoded"
NO_FORM = "multipart/form-data"  # without a boundary nobody can read it
# The first is what a page may send to its own site only; the others it may send to any.
CONTENT_TYPES = [
    "application/json",
    "text/plain",
    "text/plain; charset=utf-8",
    FORM,
    "multipart/form-data; boundary=x",
    NO_FORM,
    "",
]


@pytest.fixture
def run(chat: Chat) -> Run:
    return run_in("running", chat=chat)


@pytest.fixture
def strict(person: Any) -> Api:
    """A browser whose CSRF token is looked at, and which has one."""
    return with_csrf_token(person)


def with_csrf_token(user: Any) -> Api:
    api = by_session(user, enforce_csrf_checks=True)
    api.get("/login")  # forms hand it out
    assert api.cookies["csrftoken"].value
    return api


def named(operation: Operation) -> str:
    return operation.name


def good(api: Api) -> dict[str, str]:
    return {"X-CSRFToken": api.cookies["csrftoken"].value}


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
@pytest.mark.parametrize("operation", UNSAFE, ids=named)
def test_no_route_does_anything_without_the_csrf_token(
    strict: Api, run: Run, operation: Operation, content_type: str
) -> None:
    stranger = with_csrf_token(UserFactory())
    wrong = [{}, {"X-CSRFToken": ""}, {"X-CSRFToken": "x" * 32}, {"X-CSRFToken": "é"}, good(stranger)]
    with nothing_changed():
        for headers in wrong:
            assert_refused(operation.ask(strict, run, content_type, headers=headers), "CSRF_FAILED")


@pytest.mark.parametrize("operation", UNSAFE, ids=named)
@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://testserver.evil.example", "http://testserver:81"]
)
def test_no_route_does_anything_for_another_origin(strict: Api, run: Run, operation: Operation, origin: str) -> None:
    with nothing_changed():
        headers = {**good(strict), "Origin": origin}
        assert_refused(operation.ask(strict, run, headers=headers), "CSRF_FAILED")


@pytest.mark.parametrize("operation", UNSAFE, ids=named)
def test_the_csrf_token_is_enough(strict: Api, run: Run, operation: Operation) -> None:
    # else the tests above would prove nothing
    response = operation.ask(strict, run, headers=good(strict))
    assert response.status_code < 300 or response.json()["code"] == "A_RUN_ALREADY_ACTIVE"


@pytest.mark.parametrize("content_type", [kind for kind in CONTENT_TYPES if kind != "application/json"])
def test_a_form_is_no_body_of_the_api(strict: Api, content_type: str) -> None:
    with nothing_changed():
        for body in (b'{"title": "x"}', b"title=x"):
            response = strict.post("/api/chats", body, content_type, headers=good(strict))
            assert_refused(response, "UNSUPPORTED_MEDIA_TYPE")


def test_reading_needs_no_csrf_token(strict: Api) -> None:
    assert strict.get("/api/me").status_code == 200


def test_a_program_needs_no_csrf_token(person: Any) -> None:
    api = Api(enforce_csrf_checks=True, headers=token_of(person))
    assert api.post("/api/chats").status_code == 201


def test_a_session_beside_a_token_needs_no_csrf_token_and_counts_for_nothing(strict: Api) -> None:
    other = UserFactory()
    headers = token_of(other)
    assert strict.get("/api/me", headers=headers).json()["id"] == other.pk


# The pages


def page_names(patterns: Iterable[Any] = pages.urlpatterns) -> Iterator[tuple[str, list[str]]]:
    """(name, parameters of its address) of every page."""
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            yield from page_names(pattern.url_patterns)
        elif isinstance(pattern, URLPattern):
            yield str(pattern.name), list(pattern.pattern.converters)


@pytest.mark.parametrize(("name", "parameters"), list(page_names()))
def test_no_page_takes_a_form_without_the_csrf_token(
    strict: Api, person: Any, name: str, parameters: list[str]
) -> None:
    token_of(person)
    address = reverse(name, kwargs=dict.fromkeys(parameters, Token.objects.get().pk))
    form = "name=x&days=7"
    with nothing_changed():
        for content_type in CONTENT_TYPES:
            refused = 400 if content_type == NO_FORM else 403
            assert strict.post(address, form, content_type).status_code == refused
        evil = {**good(strict), "Origin": "https://evil.example"}
        assert strict.post(address, form, FORM, headers=evil).status_code == 403
    assert strict.get("/api/me").status_code == 200  # still logged in


def test_with_it_the_forms_of_the_pages_work(strict: Api, person: Any) -> None:
    form = f"name=x&days=7&csrfmiddlewaretoken={good(strict)['X-CSRFToken']}"
    assert strict.post("/tokens", form, FORM).status_code == 201
    revoke = f"/tokens/{Token.objects.get(user=person).pk}/revoke"
    assert strict.post(revoke, form, FORM).status_code == 302
    assert not Token.objects.exists()
    assert strict.post("/logout", form, FORM).status_code == 302
    assert_refused(strict.get("/api/me"), "NOT_AUTHENTICATED")


@pytest.mark.parametrize("address", ["/admin/runs/run/", "/admin/chat/token/add/"])
def test_the_admin_takes_no_form_without_it_either(strict: Api, person: Any, run: Run, address: str) -> None:
    person.is_staff = person.is_superuser = True
    person.save()
    form = f"action=stop_selected&_selected_action={run.pk}&name=x&user={person.pk}"
    with nothing_changed():
        assert strict.post(address, form, FORM).status_code == 403
