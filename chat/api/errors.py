"""The one shape of every error, and what turns whatever a route raises into it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import structlog
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404
from rest_framework import exceptions
from rest_framework.response import Response

logger = structlog.get_logger(__name__)


class ApiError(exceptions.APIException):
    """An answer in the one error shape; `more` adds fields of its own, such as the id of an active run. `retry_after`
    is in seconds."""

    def __init__(
        self, status_code: int, code: str, detail: str, *, retry_after: int | None = None, **more: Any
    ) -> None:
        super().__init__(detail, code)
        self.status_code = status_code
        self.code = code
        self.retry_after = retry_after
        self.more = more


_CODES: Mapping[type[Exception], str] = {
    exceptions.ValidationError: "INVALID",
    exceptions.ParseError: "INVALID",
    exceptions.NotAuthenticated: "NOT_AUTHENTICATED",
    exceptions.AuthenticationFailed: "NOT_AUTHENTICATED",
    exceptions.PermissionDenied: "FORBIDDEN",
    exceptions.NotFound: "NOT_FOUND",
    exceptions.MethodNotAllowed: "METHOD_NOT_ALLOWED",
    exceptions.UnsupportedMediaType: "UNSUPPORTED_MEDIA_TYPE",
    exceptions.NotAcceptable: "INVALID",
}


class Meaning(NamedTuple):
    status: int
    words: str


# Every code there is, and what it says where nothing better is known. Source: `docs/api.md`.
CODES: Mapping[str, Meaning] = {
    "INVALID": Meaning(400, "The request is not valid."),
    "CURSOR_INVALID": Meaning(400, "The cursor is none that was given out here."),
    "NOT_AUTHENTICATED": Meaning(401, "Authentication credentials were not provided."),
    "CSRF_FAILED": Meaning(403, "The CSRF token is missing or wrong."),
    "NO_WORKSPACE": Meaning(403, "You are in no workspace."),
    "AI_CHAT_OFF": Meaning(403, "The AI is switched off in this workspace."),
    "AUTONOMOUS_RUNS_OFF": Meaning(403, "Detached runs are switched off in this workspace."),
    "FORBIDDEN": Meaning(403, "You may not do this."),
    "NOT_FOUND": Meaning(404, "There is nothing here."),
    "METHOD_NOT_ALLOWED": Meaning(405, "This is not done here."),
    "A_RUN_ALREADY_ACTIVE": Meaning(409, "A run is active in this chat already."),
    "RUN_MISMATCH": Meaning(409, "Another run is active in this chat now."),
    "ID_TAKEN": Meaning(409, "This id is taken."),
    "IDEMPOTENCY_CONFLICT": Meaning(409, "This idempotency key came with another request before."),
    "TOO_LARGE": Meaning(413, "The request is too large."),
    "UNSUPPORTED_MEDIA_TYPE": Meaning(415, "The body is none of the types that are read here."),
    "RATE_LIMITED": Meaning(429, "Too many attempts. Try again in a minute."),
    "TOO_MANY_ACTIVE_RUNS": Meaning(429, "You have as many runs at work as you may."),
    "TOO_MANY_STREAMS": Meaning(429, "You have as many streams open as you may."),
    "INTERNAL": Meaning(500, "Something went wrong on our side."),
    "UNAVAILABLE": Meaning(503, "The service is too busy, or cannot reach its database. Try again shortly."),
}


def exception_handler(error: Exception, context: Mapping[str, Any]) -> Response:
    """Whatever a route raises, in the one shape; what nobody expected is logged and says nothing about itself."""
    # Not at the top: DRF loads the classes its settings name, this package among them, while it loads its views.
    from rest_framework.views import set_rollback

    set_rollback()
    if isinstance(error, ApiError):
        answer = _answer(error.status_code, error.code, str(error.detail), **error.more)
        if error.retry_after is not None:
            answer["Retry-After"] = str(error.retry_after)
        return answer
    if isinstance(error, Http404):
        error = exceptions.NotFound()
    elif isinstance(error, PermissionDenied):
        error = exceptions.PermissionDenied()
    elif isinstance(error, (SuspiciousOperation, UnicodeError)):
        error = exceptions.ParseError()
    if isinstance(error, exceptions.ValidationError):
        errors = _flat(error.detail)
        return _answer(400, "INVALID", _summary(errors), errors=errors)
    if isinstance(error, exceptions.APIException):
        code = _CODES.get(type(error), "INVALID")
        said = CODES[code].words if code in ("INVALID", "NOT_FOUND") else str(error.detail)
        response = _answer(error.status_code, code, said)
        if challenge := getattr(error, "auth_header", None):
            response["WWW-Authenticate"] = challenge
        return response
    if isinstance(error, (OperationalError, InterfaceError)):
        logger.warning("request_unavailable", error=type(error).__name__)
        return _answer(503, "UNAVAILABLE", CODES["UNAVAILABLE"].words)
    logger.error("request_broke", exc_info=error)
    return _answer(500, "INTERNAL", CODES["INTERNAL"].words)


def _answer(status_code: int, code: str, detail: str, **more: Any) -> Response:
    return Response({"code": code, "detail": detail, **more}, status=status_code)


def _flat(detail: Any, prefix: str = "") -> dict[str, list[str]]:
    """Nested errors by dotted field name."""
    if isinstance(detail, list):
        return {prefix or "body": [str(item) for item in detail]}
    flat: dict[str, list[str]] = {}
    for name, inner in detail.items():
        if name == "non_field_errors":
            flat |= _flat(inner, prefix)  # of the field that is an object, or of the body
        else:
            flat |= _flat(inner, f"{prefix}.{name}" if prefix else str(name))
    return flat


def _summary(errors: Mapping[str, list[str]]) -> str:
    field, messages = next(iter(errors.items()))
    return f"{field}: {messages[0]}"


def plain_error(status_code: int) -> dict[str, str]:
    """The body of an error that never reached a route."""
    codes = {
        400: "INVALID",
        403: "FORBIDDEN",
        404: "NOT_FOUND",
        429: "RATE_LIMITED",
        500: "INTERNAL",
        503: "UNAVAILABLE",
    }
    code = codes[status_code]
    return {"code": code, "detail": CODES[code].words}
