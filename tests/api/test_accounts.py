"""Who is let in: by session, by token, and not any more."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.sessions.models import Session

from chat.models import Chat, Token
from tests.api.callers import Api, assert_refused, by_session, token_of
from tests.factories import MembershipFactory, UserFactory

pytestmark = pytest.mark.django_db

ME = {"id", "username", "workspaces"}
WORKSPACE = {"id", "name", "role", "ai_chat", "autonomous_runs"}


def test_a_person_is_told_who_and_where_they_are(api: Api, program: Api, chat: Chat, person: Any) -> None:
    second = MembershipFactory(user=person, role="owner", workspace__autonomous_runs=False).workspace
    MembershipFactory(workspace=chat.workspace)
    me = api.get("/api/me").json()
    assert set(me) == ME
    assert (me["id"], me["username"]) == (person.pk, person.username)
    assert all(set(workspace) == WORKSPACE for workspace in me["workspaces"])
    assert [(found["id"], found["role"], found["autonomous_runs"]) for found in me["workspaces"]] == [
        (str(chat.workspace_id), "member", True),
        (str(second.pk), "owner", False),
    ]
    assert program.get("/api/me").json() == me


def test_who_is_nobody_is_told_how_to_become_somebody() -> None:
    response = Api().get("/api/me")
    assert_refused(response, "NOT_AUTHENTICATED")
    assert response["WWW-Authenticate"] == "Token"


@pytest.mark.parametrize(
    "authorization",
    [
        "Token",
        "Token x",
        "Token x y",
        "Token " + "a" * 64,
        "Token \xff",
        "Token \0",
        "Basic eDp5",
        "Bearer x",
        "x" * 9000,
    ],
)
def test_what_is_no_token_lets_nobody_in(authorization: str) -> None:
    response = Api().get("/api/me", headers={"Authorization": authorization})
    assert_refused(response, "NOT_AUTHENTICATED")


def test_a_wrong_token_is_not_made_good_by_a_session(api: Api) -> None:
    assert_refused(api.get("/api/me", headers={"Authorization": "Token x"}), "NOT_AUTHENTICATED")


def test_a_token_in_the_query_lets_nobody_in(person: Any) -> None:
    key = token_of(person)["Authorization"].split()[1]
    assert_refused(Api().get("/api/me", {"token": key}), "NOT_AUTHENTICATED")


def test_an_expired_token_lets_nobody_in(person: Any) -> None:
    fresh, expired = token_of(person), token_of(person, expiry=timedelta(seconds=-1))
    assert_refused(Api().get("/api/me", headers=expired), "NOT_AUTHENTICATED")
    assert Api().get("/api/me", headers=fresh).status_code == 200


def test_a_revoked_token_lets_nobody_in(program: Api) -> None:
    Token.objects.all().delete()
    assert_refused(program.get("/api/me"), "NOT_AUTHENTICATED")


def test_a_deactivated_user_is_let_in_neither_way(api: Api, program: Api, person: Any) -> None:
    get_user_model().objects.filter(pk=person.pk).update(is_active=False)
    assert_refused(api.get("/api/me"), "NOT_AUTHENTICATED")
    assert_refused(program.get("/api/me"), "NOT_AUTHENTICATED")


def test_an_ended_session_lets_nobody_in(api: Api) -> None:
    Session.objects.all().delete()
    assert_refused(api.get("/api/me"), "NOT_AUTHENTICATED")


def test_who_has_left_a_workspace_reaches_nothing_in_it(api: Api, chat: Chat) -> None:
    chat.workspace.memberships.all().delete()
    assert_refused(api.get(f"/api/chats/{chat.pk}"), "NOT_FOUND")
    assert api.get("/api/chats").json()["results"] == []
    assert api.get("/api/me").json()["workspaces"] == []


def test_the_switches_of_a_workspace_are_in_the_admin(chat: Chat) -> None:
    admin = by_session(UserFactory(is_staff=True, is_superuser=True))
    page = admin.get(f"/admin/chat/workspace/{chat.workspace_id}/change/").text
    assert all(f'name="{switch}"' in page for switch in ("ai_chat", "autonomous_runs"))
