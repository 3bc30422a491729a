"""What the OpenAPI description has besides the routes of the API: shapes they refer to, examples, and the probes."""

from typing import Any

from chat.parts_schema import PART, PARTS, thing
from config.openapi_examples import EXAMPLES
from runs.api import ai_sdk_schema, stream_schema

Shape = dict[str, Any]

_OK: Shape = {"const": "ok"}
_READY = {
    "status": {"enum": ["ok", "unavailable"]},
    "database": {"enum": ["ok", "down"]},
    "migrations": {"enum": ["ok", "pending", "unknown"]},
    "redis": {"enum": ["ok", "down"]},
    "feed_silence_seconds": {"type": ["number", "null"]},
}
_ALIVE_EXAMPLE = {"status": "ok"}
_READY_EXAMPLE = {
    "status": "ok",
    "database": "ok",
    "migrations": "ok",
    "redis": "ok",
    "feed_silence_seconds": 3.2,
}


def complete(result: Shape, generator: Any, **_: Any) -> Shape:
    """A postprocessing hook of drf-spectacular."""
    shapes = result["components"]["schemas"]
    shapes |= {**PARTS, "Part": PART, **stream_schema.COMPONENTS, **ai_sdk_schema.COMPONENTS}
    for name, example in EXAMPLES.items():
        shapes[name] = {**shapes[name], "examples": [example]}
    result["paths"]["/healthz"] = _probe("healthz", "Alive", {200: (thing({"status": _OK}), _ALIVE_EXAMPLE)})
    down = {**_READY_EXAMPLE, "status": "unavailable", "redis": "down"}
    result["paths"]["/readyz"] = _probe(
        "readyz", "Able to serve", {200: (thing(_READY), _READY_EXAMPLE), 503: (thing(_READY), down)}
    )
    paths = result["paths"]
    paths["/api/chats"]["post"]["responses"]["201"]["links"] = _links(paths, chat="id")
    paths["/api/chats/{chat}/runs"]["post"]["responses"]["202"]["links"] = _links(paths, run="id", chat="chat_id")
    return result


def _links(paths: Shape, **known: str) -> Shape:
    """To every operation on what an answer names; `known` are fields of the answer by parameter."""
    return {
        operation["operationId"]: {
            "operationId": operation["operationId"],
            "parameters": {f"path.{parameter}": f"$response.body#/{field}"},
        }
        for parameter, field in known.items()
        for path, operations in paths.items()
        if f"{{{parameter}}}" in path
        for operation in operations.values()
    }


def _probe(name: str, summary: str, answers: dict[int, tuple[Shape, Shape]]) -> Shape:
    responses = {
        str(status): {
            "description": {200: "It is.", 503: "It is not."}[status],
            "content": {"application/json": {"schema": shape, "example": example}},
        }
        for status, (shape, example) in answers.items()
    }
    return {
        "get": {"operationId": name, "summary": summary, "tags": ["probes"], "security": [], "responses": responses}
    }
