"""The description of the API: complete, true, and readable in a browser."""

import os
import re
from typing import Any

import jsonschema
import pytest
from django.contrib.staticfiles import finders
from django.core.management import call_command
from drf_spectacular.generators import SchemaGenerator

from chat.models import Chat
from runs.urls import urlpatterns
from tests.api.callers import Api, Json
from tests.factories import MessageFactory, RoleFactory, StepFactory, run_in

pytestmark = pytest.mark.django_db


@pytest.fixture(scope="module")
def schema() -> Json:
    described: Json = SchemaGenerator().get_schema(request=None, public=True)
    return described


def operations(schema: Json) -> list[Json]:
    return [operation for methods in schema["paths"].values() for operation in methods.values()]


def answers(operation: Json, status: str) -> Json:
    content: Json = operation["responses"][status]["content"]
    return content


def test_the_schema_is_valid_and_nothing_in_it_is_guessed() -> None:
    call_command("spectacular", fail_on_warn=True, validate=True, file=os.devnull)


def test_every_route_is_described(schema: Json) -> None:
    routes = {"/api/" + re.sub(r"<uuid:(\w+)>", r"{\1}", str(route.pattern)) for route in urlpatterns}
    assert set(schema["paths"]) == routes
    names = [operation["operationId"] for operation in operations(schema)]
    assert len(names) == len(set(names)) == 23


def test_every_operation_may_be_refused_in_the_one_shape(schema: Json) -> None:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorOut"}}}
    for operation in operations(schema):
        assert answers(operation, "4XX") == answers(operation, "5XX") == error
    shape = schema["components"]["schemas"]["ErrorOut"]
    assert (set(shape["properties"]), set(shape["required"])) == (
        {"code", "detail", "errors", "run_id"},
        {"code", "detail"},
    )


def test_every_operation_needs_a_token_or_a_session(schema: Json) -> None:
    assert all(operation["security"] == [{"token": []}, {"session": []}] for operation in operations(schema))
    assert {"token", "session"} <= set(schema["components"]["securitySchemes"])


def test_lists_are_pages(schema: Json) -> None:
    lists = [
        operation
        for operation in operations(schema)
        if any(p["name"] == "limit" for p in operation.get("parameters", []))
    ]
    assert len(lists) == 6
    for operation in lists:
        name = answers(operation, "200")["application/json"]["schema"]["$ref"].rpartition("/")[2]
        page = schema["components"]["schemas"][name]
        assert set(page["properties"]) == set(page["required"]) == {"next", "previous", "results"}
        (limit,) = (p["schema"] for p in operation["parameters"] if p["name"] == "limit")
        assert (limit["type"], limit["minimum"], limit["maximum"]) == ("integer", 1, 200)


def test_what_is_no_json_says_so(schema: Json) -> None:
    paths = schema["paths"]
    assert set(answers(paths["/api/runs/{run}/stream"]["get"], "200")) == {"text/event-stream"}
    assert set(answers(paths["/api/chat"]["post"], "200")) == {"text/event-stream"}
    assert set(answers(paths["/api/chat/{chat}/stream"]["get"], "200")) == {"text/event-stream"}
    assert "content" not in paths["/api/chat/{chat}/stream"]["get"]["responses"]["204"]
    assert set(answers(paths["/api/chats/{chat}/export"]["get"], "200")) == {"text/markdown", "application/json"}
    assert "content" not in paths["/api/chats/{chat}"]["delete"]["responses"]["204"]


def test_bodies_are_described_as_strict_as_they_are(schema: Json) -> None:
    shapes = schema["components"]["schemas"]
    for name in ("ChatCreate", "ChatChange", "ChatStop", "RunStart", "FileIn", "LimitsIn"):
        assert shapes[name]["additionalProperties"] is False
    assert (shapes["ChatChange"]["required"], shapes["FileIn"]["required"]) == (["title"], ["name", "text"])
    assert "additionalProperties" not in shapes["ChatSend"]
    # a turn is a text, or an answer to be written anew, or one to be gone on with
    assert "required" not in shapes["RunStart"]


def test_answers_are_what_the_schema_says(api: Api, chat: Chat, schema: Json) -> None:
    # given something of everything
    RoleFactory()
    MessageFactory(chat=chat)
    for status in ("succeeded", "failed", "aborted", "running"):
        run = run_in(status, chat=chat)
    StepFactory(run=run)
    # then
    checked = 0
    for path, methods in schema["paths"].items():
        shape = methods.get("get") and answers(methods["get"], "200").get("application/json")
        if shape and path != "/api/runs/{run}/wait":
            response = api.get(path.format(chat=chat.pk, run=run.pk) + ("?format=json" if "export" in path else ""))
            check(response.json(), shape["schema"], schema)
            checked += 1
    assert checked == 12
    check(api.post("/api/nothing").json(), {"$ref": "#/components/schemas/ErrorOut"}, schema)
    check(api.get("/api/chats?x=1").json(), {"$ref": "#/components/schemas/ErrorOut"}, schema)
    stopped = api.post(f"/api/chats/{chat.pk}/stop").json()
    check(stopped, {"$ref": "#/components/schemas/StopOut"}, schema)
    check(
        api.post(f"/api/chats/{chat.pk}/runs", {"text": "x"}).json(), {"$ref": "#/components/schemas/ErrorOut"}, schema
    )


def check(instance: Any, shape: Json, schema: Json) -> None:
    jsonschema.validate(instance, strict({**shape, "components": schema["components"]}))


def strict(node: Any) -> Any:
    """OpenAPI 3.0 as JSON schema, in which an object has no more properties than are described."""
    if isinstance(node, list):
        return [strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    shape = {name: strict(inner) for name, inner in node.items() if name != "nullable"}
    if isinstance(node.get("properties"), dict) and node.get("type") == "object":
        shape.setdefault("additionalProperties", False)
    return {"anyOf": [shape, {"type": "null"}]} if node.get("nullable") is True else shape


def test_the_schema_is_served_as_json_to_anybody(schema: Json) -> None:
    response = Api().get("/api/schema")
    assert response.status_code == 200
    assert "json" in response["Content-Type"]
    assert response.json()["paths"].keys() == schema["paths"].keys()


def test_the_docs_load_only_what_the_page_may(schema: Json) -> None:
    response = Api().get("/api/docs")
    assert (response.status_code, response["Content-Type"]) == (200, "text/html; charset=utf-8")
    policy = response["Content-Security-Policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy.partition("script-src")[2].partition(";")[0]
    # scripts and styles come from addresses only, and each address serves its file
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bon\w+=", response.text)
    sources = re.findall(r'(?:src|href)="([^"]+)"', response.text)
    static = [source for source in sources if source.startswith("/static/")]
    assert len(static) == 4
    assert all(finders.find(source.removeprefix("/static/")) for source in static)
    (script,) = set(sources) - set(static)
    served = Api().get(script)
    assert served["Content-Type"] == "application/javascript"
    assert '"/api/schema"' in served.text
