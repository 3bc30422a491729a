"""Roles in the admin site: what can be set, and what is refused on save, with the reason."""

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from agents.models import Role
from chat.models import Workspace
from runs.tools import TOOLS
from tests.factories import RoleFactory, WorkspaceFactory

pytestmark = pytest.mark.django_db

ADD = "/admin/agents/role/add/"


def form(**fields: Any) -> dict[str, Any]:
    return {"name": "brief", "tools": list(TOOLS), **fields}


def errors(response: Any) -> dict[str, list[str]]:
    assert response.status_code == 200
    assert not Role.objects.exists()
    return dict(response.context["adminform"].errors)


def ticked(page: Any) -> list[str]:
    return [box.data["value"] for box in page.context["adminform"].form["tools"] if box.data["selected"]]


def test_a_role_is_set_up_whole(admin: Client, settings: Any) -> None:
    settings.AGENT_MODELS = ["openai/*"]
    workspace = WorkspaceFactory()
    fields = {
        "description": "says little",
        "workspace": str(workspace.pk),
        "is_default": "on",
        "instructions": "Be brief.",
        "tools": ["calculate"],
        "model": "openai/a",
        "fallbacks": "openai/b,openai/c",
        "temperature": "0.5",
        "top_p": "1",
        "max_output_tokens": "100",
        "reasoning_effort": "low",
        "seed": "-7",
        "max_steps": "3",
        "max_tokens": "1000",
        "max_cost_usd": "0.5",
        "max_seconds": "60",
        "max_stall_seconds": "5.5",
    }
    assert admin.post(ADD, form(**fields)).status_code == 302
    role = Role.objects.get()
    assert (role.workspace, role.tools, role.fallbacks) == (workspace, ["calculate"], ["openai/b", "openai/c"])
    assert (role.model_settings.seed, role.limits.steps, role.limits.stall) == (-7, 3, 5.5)
    page = admin.get(reverse("admin:agents_role_change", args=[role.pk]))
    assert page.status_code == 200
    assert [box.data["value"] for box in page.context["adminform"].form["tools"] if box.data["selected"]] == [
        "calculate"
    ]
    assert admin.get("/admin/agents/role/?q=bri").status_code == 200


def test_a_new_role_has_every_tool_until_somebody_takes_it_away(admin: Client) -> None:
    assert ticked(admin.get(ADD)) == list(TOOLS)
    assert admin.post(ADD, {"name": "talks only"}).status_code == 302
    assert Role.objects.get().tools == []


@pytest.mark.parametrize("name", ["no_such_tool", "calculate ", "Calculate", "<script>"])
def test_a_role_that_names_an_unknown_tool_is_refused_with_the_reason(admin: Client, name: str) -> None:
    assert errors(admin.post(ADD, form(tools=["calculate", name]))) == {"tools": [f"There is no tool named {name}."]}


@pytest.mark.parametrize("model", ["other/model", "openai", "OPENAI/x", "x/openai/y"])
@pytest.mark.parametrize("field", ["model", "fallbacks"])
def test_a_role_that_names_an_unknown_model_is_refused_with_the_reason(
    admin: Client, settings: Any, field: str, model: str
) -> None:
    settings.AGENT_MODELS = ["openai/*", "anthropic/*"]
    value = f"openai/a,{model}" if field == "fallbacks" else model
    (reason,) = errors(admin.post(ADD, form(**{field: value})))[field]
    assert reason == f"{model} is not among the models that AGENT_MODELS allows: openai/*, anthropic/*."


NONSENSE = [
    *(("temperature", value) for value in ("-0.1", "2.1", "hot", "nan", "1e9")),
    *(("top_p", value) for value in ("-1", "1.1", "nan")),
    *(("max_output_tokens", value) for value in ("0", "-1", "2147483648", "1.5")),
    *(("reasoning_effort", value) for value in ("extreme", "LOW")),
    *(("seed", value) for value in ("9223372036854775808", "x")),
    *((name, value) for name in ("max_steps", "max_tokens") for value in ("0", "-1", "99999999999999", "1.5", "x")),
    *((name, value) for name in ("max_cost_usd", "max_seconds", "max_stall_seconds") for value in ("0", "-1", "nan")),
    *((name, value) for name in ("max_cost_usd", "max_seconds", "max_stall_seconds") for value in ("1e30", "inf")),
    *(("workspace", value) for value in ("x", "00000000-0000-0000-0000-000000000001")),
    ("name", ""),
    ("name", "x" * 101),
]


@pytest.mark.parametrize(("field", "value"), NONSENSE)
def test_what_makes_no_sense_is_refused_at_its_field(admin: Client, field: str, value: str) -> None:
    assert field in errors(admin.post(ADD, form(**{field: value})))


@pytest.mark.parametrize("scope", ["workspace", "global"])
def test_there_is_one_default_role_for_each_workspace_and_one_for_all(admin: Client, scope: str) -> None:
    workspace = WorkspaceFactory() if scope == "workspace" else None
    RoleFactory(is_default=True, workspace=workspace)
    RoleFactory(is_default=True, workspace=WorkspaceFactory())
    fields = {"is_default": "on", **({"workspace": str(workspace.pk)} if workspace else {})}
    response = admin.post(ADD, form(**fields))
    assert response.status_code == 200
    assert "has a default role already" in response.text or "is a global default role already" in response.text
    assert Role.objects.count() == 2


def test_the_limits_of_a_day_are_set_with_the_workspace(admin: Client) -> None:
    workspace = WorkspaceFactory()
    address = reverse("admin:chat_workspace_change", args=[workspace.pk])
    inline = {"memberships-TOTAL_FORMS": "0", "memberships-INITIAL_FORMS": "0"}
    fields = {"name": "here", "daily_tokens": "1000", "daily_cost_usd": "2.5", **inline}
    assert admin.post(address, fields).status_code == 302
    found = Workspace.objects.get(pk=workspace.pk)
    assert (found.daily_tokens, str(found.daily_cost_usd)) == (1000, "2.50000000")
    for wrong in ({"daily_tokens": "0"}, {"daily_cost_usd": "0"}, {"daily_cost_usd": "nan"}, {"daily_tokens": "x"}):
        assert set(admin.post(address, fields | wrong).context["adminform"].errors) == set(wrong)
