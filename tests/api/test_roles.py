"""Roles: who may use which, what a run takes from its role, and what it is held to."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from agents.models import Role
from chat.models import Chat, Message
from runs.models import Run
from runs.roles import RoleSettings
from runs.tools import INSTRUCTIONS
from tests.api.callers import Api, Json, assert_refused, nothing_changed
from tests.factories import ChatFactory, MembershipFactory, RoleFactory, WorkspaceFactory, run_in

pytestmark = pytest.mark.django_db

ROLE = {"id", "workspace_id", "name", "description", "is_default", "model", "tools", "limits"}
LIMITS = {"steps", "tokens", "cost_usd", "seconds"}


def start(api: Api, chat: Chat, **fields: Any) -> Any:
    return api.post(f"/api/chats/{chat.pk}/runs", {"text": "hello", **fields})


def started(api: Api, chat: Chat, **fields: Any) -> Json:
    """A run in a chat of its own, beside the given one."""
    role = Chat.objects.get(pk=chat.pk).role_id
    beside = ChatFactory(created_by=chat.created_by, workspace=chat.workspace, role_id=role)
    response = start(api, beside, **fields)
    assert response.status_code == 202, response.text
    run: Json = response.json()
    return run


def taken_down(run: Json) -> RoleSettings:
    return RoleSettings.of(Run.objects.get(pk=run["id"]))


def test_the_roles_of_my_workspaces_and_the_global_ones_are_listed(api: Api, chat: Chat, person: Any) -> None:
    second = MembershipFactory(user=person).workspace
    mine = RoleFactory(
        workspace=second, name="b", description="says little", instructions="secret", model="openai/x", max_steps=3
    )
    everyones = RoleFactory(name="a", tools=["calculate"], is_default=True)
    RoleFactory(workspace=WorkspaceFactory())
    first, then = api.get("/api/roles").json()["results"]
    assert set(first) == ROLE
    assert set(first["limits"]) == LIMITS
    assert (first["id"], first["workspace_id"], first["is_default"]) == (str(everyones.pk), None, True)
    # where it names no model, it is the installation's
    assert (first["model"], first["tools"]) == ("openai/demo", ["calculate"])
    assert (then["id"], then["workspace_id"], then["description"]) == (str(mine.pk), str(second.pk), "says little")
    assert (then["model"], then["limits"]["steps"], then["limits"]["tokens"]) == ("openai/x", 3, None)
    assert "secret" not in api.get("/api/roles").text


def test_roles_come_in_pages(api: Api, chat: Chat) -> None:
    for name in ("b", "a", "a", "c"):
        RoleFactory(name=name)
    page = api.get("/api/roles?limit=3").json()
    rest = api.get(page["next"]).json()["results"]
    assert [role["name"] for role in [*page["results"], *rest]] == ["a", "a", "b", "c"]
    assert_refused(api.get("/api/roles?name=a"), "INVALID", "name")


def test_a_run_s_role_is_the_request_s_else_the_chat_s_else_the_default(api: Api, chat: Chat) -> None:
    assert started(api, chat)["role_id"] is None
    everywhere = RoleFactory(is_default=True)
    assert started(api, chat)["role_id"] == str(everywhere.pk)
    here = RoleFactory(is_default=True, workspace=chat.workspace)
    RoleFactory(is_default=True, workspace=WorkspaceFactory())
    assert started(api, chat)["role_id"] == str(here.pk)
    own, asked = RoleFactory(), RoleFactory(workspace=chat.workspace)
    Chat.objects.filter(pk=chat.pk).update(role=own)
    assert started(api, chat)["role_id"] == str(own.pk)
    assert started(api, chat, role=str(asked.pk))["role_id"] == str(asked.pk)
    # and a chat whose role belongs elsewhere by now, or is gone, has the default one
    Role.objects.filter(pk=own.pk).update(workspace=WorkspaceFactory())
    assert started(api, chat)["role_id"] == str(here.pk)
    own.delete()
    assert api.get(f"/api/chats/{chat.pk}").json()["role_id"] is None


def test_a_chat_is_created_with_a_role_of_its_workspace(api: Api, chat: Chat) -> None:
    role = RoleFactory(workspace=chat.workspace)
    created = api.post("/api/chats", {"role": str(role.pk)})
    assert (created.status_code, created.json()["role_id"]) == (201, str(role.pk))
    assert start(api, Chat.objects.get(pk=created.json()["id"])).json()["role_id"] == str(role.pk)
    # one of another workspace that the person is in will not do
    other = RoleFactory(workspace=MembershipFactory(user=chat.created_by).workspace)
    with nothing_changed():
        fields = {"workspace": str(chat.workspace_id), "role": str(other.pk)}
        assert_refused(api.post("/api/chats", fields), "NOT_FOUND")
        assert_refused(start(api, chat, role=str(other.pk)), "NOT_FOUND")


def test_without_a_role_a_run_has_the_usual_settings(api: Api, chat: Chat) -> None:
    run = started(api, chat)
    assert taken_down(run) == RoleSettings(INSTRUCTIONS, None, stall=120.0)
    assert run["model"] == "openai/demo"
    assert run["limits"] == {"steps": 20, "tokens": None, "cost_usd": None, "seconds": 3600.0}


def test_what_the_role_says_is_taken_down_when_the_run_begins(api: Api, chat: Chat, settings: Any) -> None:
    settings.AGENT_MODELS = ["openai/*"]
    role = RoleFactory(
        instructions="Be brief.",
        tools=["calculate"],
        model="openai/small",
        fallbacks=["openai/other", "closed/since"],
        temperature=0,
        top_p=0.5,
        max_output_tokens=100,
        reasoning_effort="low",
        seed=7,
        max_stall_seconds=9,
    )
    run = started(api, chat, role=str(role.pk))
    Role.objects.filter(pk=role.pk).update(instructions="Be long.", tools=[], model="openai/large", temperature=2)
    said = taken_down(run)
    assert (said.instructions, said.tools, said.fallbacks, said.stall) == (
        "Be brief.",
        ["calculate"],
        ["openai/other"],
        9.0,
    )
    assert said.model_settings.given == {
        "temperature": 0.0, "top_p": 0.5, "max_tokens": 100, "reasoning_effort": "low", "seed": 7,
    }  # fmt: skip
    assert api.get(f"/api/runs/{run['id']}").json()["model"] == "openai/small"
    # and it outlives its role
    role.delete()
    assert api.get(f"/api/runs/{run['id']}").json()["role_id"] is None
    assert taken_down(run) == said


def test_the_request_s_model_goes_before_the_role_s(api: Api, chat: Chat) -> None:
    role = RoleFactory(model="openai/role")
    assert started(api, chat, role=str(role.pk))["model"] == "openai/role"
    assert started(api, chat, role=str(role.pk), model="openai/asked")["model"] == "openai/asked"
    assert started(api, chat, role=str(RoleFactory().pk))["model"] == "openai/demo"


def test_a_role_whose_model_is_not_allowed_any_more_begins_no_run(api: Api, chat: Chat, settings: Any) -> None:
    role = RoleFactory(model="openai/role")
    settings.AGENT_MODELS = ["openai/demo"]
    with nothing_changed():
        assert_refused(start(api, chat, role=str(role.pk)), "INVALID", "role")
    assert started(api, chat, role=str(role.pk), model="openai/demo")["model"] == "openai/demo"


@pytest.mark.parametrize(
    ("installation", "role", "request_", "holds"),
    [
        (20, None, None, 20),
        (20, 10, None, 10),
        (20, 10, 5, 5),
        (20, 10, 15, 10),
        (20, 30, 25, 20),
        (20, 30, None, 20),
    ],
)
def test_of_the_limits_of_request_role_and_installation_the_tightest_holds(
    api: Api, chat: Chat, settings: Any, installation: int, role: int | None, request_: int | None, holds: int
) -> None:
    settings.RUN_MAX_STEPS = settings.RUN_MAX_TOKENS = settings.RUN_TIMEOUT_SECONDS = installation
    settings.RUN_MAX_COST_USD = Decimal(installation)
    named = {"max_steps": role, "max_tokens": role, "max_cost_usd": role, "max_seconds": role}
    limits = dict.fromkeys(LIMITS, request_) if request_ else {}
    run = started(api, chat, role=str(RoleFactory(**named).pk), limits=limits)
    assert run["limits"] == dict.fromkeys(LIMITS, holds)


def test_a_limit_may_be_a_fraction_where_that_makes_sense(api: Api, chat: Chat) -> None:
    run = started(api, chat, limits={"cost_usd": 0.000001, "seconds": 0.5})
    assert run["limits"] == {"steps": 20, "tokens": None, "cost_usd": 0.000001, "seconds": 0.5}
    assert started(api, chat, limits={})["limits"]["seconds"] == 3600.0


def test_the_same_id_with_another_role_or_other_limits_is_taken(api: Api, chat: Chat) -> None:
    role, chosen = RoleFactory(), str(uuid4())
    body = {"id": chosen, "role": str(role.pk), "limits": {"steps": 3, "cost_usd": 0.1}}
    assert [start(api, chat, **body).status_code for _ in range(2)] == [202, 200]
    for other in ({"role": str(RoleFactory().pk)}, {"limits": {"steps": 4, "cost_usd": 0.1}}, {"limits": {}}):
        assert_refused(start(api, chat, **body | other), "ID_TAKEN")
    # the run is there, whatever has become of what it began with
    role.delete()
    assert start(api, chat, **body).json()["id"] == chosen


def test_a_day_that_is_used_up_refuses_the_next_turn_until_midnight(api: Api, chat: Chat) -> None:
    chat.workspace.daily_tokens = 100
    chat.workspace.save(update_fields=["daily_tokens"])
    run_in("succeeded", chat=chat, input_tokens=60, output_tokens=40)
    before = Message.objects.count()
    response = start(api, chat)
    body = assert_refused(response, "RATE_LIMITED")
    assert "100 tokens a day" in body["detail"]
    now = datetime.now(UTC)
    midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    assert int(response["Retry-After"]) == pytest.approx((midnight - now).total_seconds(), abs=5)
    assert Message.objects.count() == before
