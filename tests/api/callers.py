"""How tests ask the API, and what they hold an answer to."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.contrib.auth import get_user_model
from django.test import Client

from agents.models import Role
from chat.models import Chat, Membership, Message, Token, Workspace
from runs.models import Run, Step, ToolCall

Json = dict[str, Any]

STATUS_OF = {
    "INVALID": {400},
    "CURSOR_INVALID": {400},
    "NOT_AUTHENTICATED": {401},
    "CSRF_FAILED": {403},
    "NO_WORKSPACE": {403},
    "AI_CHAT_OFF": {403},
    "AUTONOMOUS_RUNS_OFF": {403},
    "NOT_FOUND": {404},
    "METHOD_NOT_ALLOWED": {405},
    "A_RUN_ALREADY_ACTIVE": {409},
    "RUN_MISMATCH": {409},
    "ID_TAKEN": {409},
    "IDEMPOTENCY_CONFLICT": {409},
    "TOO_LARGE": {413},
    "UNSUPPORTED_MEDIA_TYPE": {415},
    "RATE_LIMITED": {429},
    "TOO_MANY_ACTIVE_RUNS": {429},
    "TOO_MANY_STREAMS": {429},
}
WITH_RUN_ID = {"A_RUN_ALREADY_ACTIVE", "RUN_MISMATCH"}


class Api(Client):
    """Django's client, speaking JSON."""

    def post(self, path: str, data: Any = "{}", content_type: str = "application/json", **options: Any) -> Any:
        return super().post(path, data, content_type, **options)

    def patch(self, path: str, data: Any = "{}", content_type: str = "application/json", **options: Any) -> Any:
        return super().patch(path, data, content_type, **options)


def by_session(user: Any, **options: Any) -> Api:
    api = Api(**options)
    api.force_login(user)
    return api


def by_token(user: Any) -> Api:
    return Api(headers=token_of(user))


def token_of(user: Any, **options: Any) -> dict[str, str]:
    _, key = Token.objects.create(user, **{"name": "program", **options})
    return {"Authorization": f"Token {key}"}


def assert_refused(response: Any, code: str, *fields: str) -> Json:
    """The one error shape with this code, naming these fields; answers the body."""
    assert response["Content-Type"] == "application/json"
    body: Json = response.json()
    assert body.get("code") == code, body
    assert response.status_code in STATUS_OF[code]
    optional = {"errors": body.get("errors")} if "errors" in body else {}
    more = {"run_id"} if code in WITH_RUN_ID else set()
    assert set(body) == {"code", "detail", *optional, *more}
    assert body["detail"]
    assert "Traceback" not in response.text
    for field in fields:
        assert body["errors"][field]
    return body


def assert_refused_somehow(response: Any) -> None:
    assert 400 <= response.status_code < 500, response.text
    assert_refused(response, response.json()["code"])


def rows() -> str:
    """A digest of all that requests may change."""
    models = [get_user_model(), Role, Workspace, Membership, Chat, Message, Run, Step, ToolCall]
    found = [list(model.objects.order_by("pk").values()) for model in models]
    found.append(list(Token.objects.order_by("pk").values_list("pk", "digest", "name", "expiry")))  # but for their use
    return hashlib.sha256(repr(found).encode()).hexdigest()


@contextmanager
def nothing_changed() -> Iterator[None]:
    before = rows()
    yield
    assert rows() == before
