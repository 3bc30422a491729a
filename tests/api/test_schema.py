"""The description of the API: complete, true, and readable in a browser."""

import os
import re
from typing import Any
from uuid import UUID

import jsonschema
import pytest
from django.contrib.staticfiles import finders
from django.core.management import call_command
from drf_spectacular.generators import SchemaGenerator

from agents import chunks
from chat.models import Chat
from runs.api.urls import urlpatterns
from runs.feed import told_of
from tests.api.callers import Api, Json
from tests.factories import MessageFactory, RoleFactory, StepFactory, run_in

pytestmark = pytest.mark.django_db


@pytest.fixture(scope="module")
def schema() -> Json:
    described: Json = SchemaGenerator().get_schema(request=None, public=True)
    return described


def operations(schema: Json) -> list[Json]:
    """Those of the API; the probes are no part of it."""
    return [
        operation
        for path, methods in schema["paths"].items()
        for operation in methods.values()
        if path.startswith("/api/")
    ]


def answers(operation: Json, status: str) -> Json:
    content: Json = operation["responses"][status]["content"]
    return content


def refusals(operation: Json, schema: Json) -> set[str]:
    """All codes of errors that it describes."""
    codes: set[str] = set()
    for status, answer in operation["responses"].items():
        if status >= "4":
            shape = resolved(answer, schema)["content"]["application/json"]["schema"]
            codes |= set(shape["properties"]["code"]["enum"])
    return codes


def resolved(node: Json, schema: Json) -> Json:
    for name in node.get("$ref", "").removeprefix("#/").split("/") if "$ref" in node else ():
        schema = schema[name]
    return schema if "$ref" in node else node


def test_the_schema_is_valid_and_nothing_in_it_is_guessed() -> None:
    call_command("spectacular", fail_on_warn=True, validate=True, file=os.devnull)


def test_every_route_is_described(schema: Json) -> None:
    routes = {"/api/" + re.sub(r"<uuid:(\w+)>", r"{\1}", str(route.pattern)) for route in urlpatterns}
    assert set(schema["paths"]) == routes | {"/healthz", "/readyz"}
    names = [operation["operationId"] for operation in operations(schema)]
    assert len(names) == len(set(names)) == 23


def test_every_operation_says_how_it_refuses_in_the_one_shape(schema: Json) -> None:
    common = {"INVALID", "NOT_AUTHENTICATED", "INTERNAL", "UNAVAILABLE"}
    assert all(common <= refusals(operation, schema) for operation in operations(schema))
    paths = schema["paths"]
    assert refusals(paths["/api/me"]["get"], schema) == common
    assert refusals(paths["/api/runs"]["get"], schema) == common | {"CURSOR_INVALID"}
    assert refusals(paths["/api/chats/{chat}"]["delete"], schema) == common | {"NOT_FOUND", "CSRF_FAILED"}
    assert refusals(paths["/api/chats/{chat}/runs"]["post"], schema) == {
        *(*common, "CSRF_FAILED", "NOT_FOUND", "TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE", "AI_CHAT_OFF"),
        *("AUTONOMOUS_RUNS_OFF", "A_RUN_ALREADY_ACTIVE", "ID_TAKEN", "IDEMPOTENCY_CONFLICT", "RATE_LIMITED"),
        "TOO_MANY_ACTIVE_RUNS",
    }
    shape = schema["components"]["schemas"]["ErrorOut"]
    assert (set(shape["properties"]), set(shape["required"])) == (
        {"code", "detail", "errors", "run_id"},
        {"code", "detail"},
    )


def test_refusals_have_their_headers_and_an_example_for_each_code(schema: Json) -> None:
    headers = {"NOT_AUTHENTICATED": "WWW-Authenticate", "RATE_LIMITED.TOO_MANY_STREAMS": "Retry-After"}
    responses = schema["components"]["responses"]
    assert {name: set(responses[name]["headers"]) for name in headers} == {n: {h} for n, h in headers.items()}
    for response in responses.values():
        content = response["content"]["application/json"]
        assert list(content["examples"]) == content["schema"]["properties"]["code"]["enum"]
        for example in content["examples"].values():
            check(example["value"], content["schema"], schema)


def test_everything_that_goes_in_or_out_has_an_example_that_is_one(schema: Json) -> None:
    names = set()
    for operation in operations(schema):
        bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
        for content in (content for body in bodies for content in resolved(body, schema).get("content", {}).values()):
            shape = content.get("itemSchema") or content["schema"]
            names.add(shape.get("$ref", "").rpartition("/")[2])
    names -= {""}  # Markdown, and errors: see above
    assert len(names) == 20
    for name in names:
        (example,) = schema["components"]["schemas"][name]["examples"]
        check(example, {"$ref": f"#/components/schemas/{name}"}, schema)


CHUNKS = [
    chunks.start(str(UUID(int=1)), {"chatId": str(UUID(int=2)), "runId": str(UUID(int=3)), "attempt": 1}),
    chunks.start_step(),
    chunks.finish_step(),
    *(make(kind, "x-0-0") for kind in ("text", "reasoning") for make in (chunks.opened, chunks.ended)),
    *(chunks.delta(kind, "x-0-0", "x") for kind in ("text", "reasoning")),
    chunks.tool_input_start("call", "add"),
    chunks.tool_input_delta("call", "{"),
    chunks.tool_input_available("call", "add", {}),
    chunks.tool_output_available("call", [1]),
    chunks.tool_output_error("call", "no"),
    chunks.message_metadata({"usage": {"inputTokens": 1, "outputTokens": 1, "costUsd": 0.1, "estimated": True}}),
    chunks.retrying(0, 1, 2.5, "overloaded"),
    chunks.error("x"),
    chunks.abort(),
]


def test_every_chunk_that_is_emitted_is_described(schema: Json) -> None:
    kinds = schema["components"]["schemas"]["Chunk"]["discriminator"]["mapping"]
    assert {chunk["type"] for chunk in CHUNKS} | {"finish"} == set(kinds)
    for chunk in CHUNKS:
        check(chunk, {"$ref": "#/components/schemas/Chunk"}, schema)
        with pytest.raises(jsonschema.ValidationError):
            check({**chunk, "more": 1}, {"$ref": "#/components/schemas/Chunk"}, schema)


def test_what_the_feed_tells_is_described(schema: Json, chat: Chat) -> None:
    events = schema["components"]["schemas"]["FeedEvent"]["oneOf"]
    shapes = {event["properties"]["event"]["const"]: event["properties"]["data"] for event in events}
    for status in ("running", "failed"):
        check(told_of(run_in(status, chat=chat)), shapes["run"]["contentSchema"], schema)


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
    run_stream = {"text/event-stream": {"itemSchema": {"$ref": "#/components/schemas/RunStreamEvent"}}}
    assert answers(paths["/api/runs/{run}/stream"]["get"], "200") == run_stream
    assert answers(paths["/api/chat"]["post"], "200") == run_stream
    assert answers(paths["/api/chat/{chat}/stream"]["get"], "200") == run_stream
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
        if shape and path.startswith("/api/") and path != "/api/runs/{run}/wait":
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
    whole = strict({**shape, "components": schema["components"]})
    jsonschema.validate(instance, whole, jsonschema.Draft202012Validator)


def strict(node: Any) -> Any:
    """A schema in which an object has no more properties than are described."""
    if isinstance(node, list):
        return [strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    shape = {name: strict(inner) for name, inner in node.items()}
    if isinstance(node.get("properties"), dict) and node.get("type") == "object":
        shape.setdefault("additionalProperties", False)
    return shape


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
