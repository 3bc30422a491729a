"""Every route of the API, by its id in the schema, with what it takes to ask it as somebody who may not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

from drf_spectacular.generators import SchemaGenerator

from runs.models import Run
from tests.api.callers import Api, Json


@dataclass(frozen=True)
class Route:
    """`body` goes with it, the ids of a run and its chat put into `{run}` and `{chat}` as in an address. `tells` says
    whether its answer to a GET tells of one's own things; `makes`, that it makes something of the asker's own;
    `claims`, that it makes it under the id that is asked for, if nobody has that;
    `is_stream`, that its answer may go on for ever."""

    body: Json | None = None
    tells: bool = True
    makes: bool = False
    claims: bool = False
    is_stream: bool = False


ROUTES = {
    "me": Route(),
    "models": Route(tells=False),
    "roles_list": Route(),
    "chats_list": Route(),
    "chats_create": Route({"title": "my own"}, makes=True),
    "chats_read": Route(),
    "chats_rename": Route({"title": "taken over"}),
    "chats_delete": Route(),
    "chats_messages": Route(),
    "chats_export": Route(),
    "chats_runs_list": Route(),
    "chats_runs_start": Route({"text": "taken over"}),
    "chats_latest_run": Route(),
    "chats_stop": Route(),
    "runs_list": Route(),
    "runs_read": Route(),
    "runs_steps": Route(),
    "runs_stream": Route(is_stream=True),
    "runs_wait": Route(tells=False),  # until the run has ended: see test_stream.py
    "runs_stop": Route(),
    "ai_sdk_send": Route(
        {
            "id": "{chat}",
            "trigger": "submit-message",
            "messages": [{"id": "m", "role": "user", "parts": [{"type": "text", "text": "taken over"}]}],
        },
        claims=True,
    ),
    "ai_sdk_stream": Route(is_stream=True),
    "events": Route(is_stream=True),
}


@dataclass(frozen=True)
class Operation:
    method: str
    path: str
    name: str

    @property
    def route(self) -> Route:
        return ROUTES[self.name]

    @property
    def is_unsafe(self) -> bool:
        return self.method != "GET"

    @property
    def names_something(self) -> bool:
        """Whether an id of somebody's goes with it, in its address or in its body."""
        return any(name in self.path + self._template for name in ("{chat}", "{run}"))

    @property
    def _template(self) -> str:
        return json.dumps(self.route.body or {})

    def address(self, run: Run) -> str:
        return self.path.format(chat=run.chat_id, run=run.pk)

    def body(self, run: Run) -> str:
        return self._template.replace("{chat}", str(run.chat_id)).replace("{run}", str(run.pk))

    def ask(self, api: Api, run: Run, content_type: str = "application/json", **options: Any) -> Any:
        return api.generic(self.method, self.address(run), self.body(run), content_type, **options)


@cache
def operations() -> list[Operation]:
    schema: Json = SchemaGenerator().get_schema(request=None, public=True)
    return [
        Operation(method.upper(), path, operation["operationId"])
        for path, methods in schema["paths"].items()
        if path.startswith("/api/")
        for method, operation in methods.items()
    ]
