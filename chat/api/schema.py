"""How the routes describe themselves in OpenAPI 3.2, by drf-spectacular."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from drf_spectacular.authentication import SessionScheme as DrfSessionScheme
from drf_spectacular.contrib.knox_auth_token import KnoxTokenScheme
from drf_spectacular.extensions import OpenApiSerializerExtension, OpenApiSerializerFieldExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import ResolvedComponent
from drf_spectacular.utils import OpenApiParameter, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.permissions import SAFE_METHODS

from chat.api.errors import CODES
from chat.api.strict import CursorField

EVENT_STREAM = "text/event-stream"

Handler = TypeVar("Handler", bound=Callable[..., Any])
Shape = dict[str, Any]


def operation(
    name: str, summary: str, *, refuses: tuple[str, ...] = (), **described: Any
) -> Callable[[Handler], Handler]:
    """What a handler of a route does. `refuses` are the codes of the errors that are its own: see `Schema` for those
    that its address, method and body tell of. `described` goes to `extend_schema`."""

    def mark(handler: Handler) -> Handler:
        handler.refuses = refuses  # type: ignore[attr-defined]
        marked: Handler = extend_schema(operation_id=name, summary=summary, **described)(handler)
        return marked

    return mark


def answer_header(
    name: str, shape: Shape, description: str = "", *, required: bool = True, statuses: Sequence[int] = (200,)
) -> OpenApiParameter:
    """A header of the answers with these statuses."""
    return OpenApiParameter(
        name, shape, OpenApiParameter.HEADER, required=required, description=description, response=list(statuses)
    )


def stream_headers(values: Mapping[str, str]) -> list[OpenApiParameter]:
    return [answer_header(name, {"const": value}) for name, value in values.items()]


class TokenScheme(KnoxTokenScheme):  # type: ignore[no-untyped-call]
    target_class = "chat.api.authentication.TokenAuthentication"
    name = "token"


class SessionScheme(DrfSessionScheme):  # type: ignore[no-untyped-call]
    target_class = "chat.api.authentication.SessionAuthentication"
    name = "session"


class StrictShape(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """What is not described is refused."""

    target_class = "chat.api.strict.StrictSerializer"
    match_subclasses = True

    def map_serializer(self, auto_schema: Any, direction: str) -> Shape:
        shape: Shape = auto_schema._map_serializer(self.target, direction, bypass_extensions=True)
        shape.pop("description", None)
        return {**shape, "additionalProperties": False, **getattr(self.target, "rules", {})}


class SelfDescribed(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]
    """Fields that know their pattern better than drf-spectacular does."""

    target_class = "chat.api.strict.DescribedField"
    match_subclasses = True

    def map_serializer_field(self, auto_schema: Any, direction: str) -> Shape:
        shape: Shape = auto_schema._map_serializer_field(self.target, direction, bypass_extensions=True)
        return {**shape, **self.target.described()}


class ErrorOut(serializers.Serializer[Any]):
    code = serializers.CharField(help_text="For programs.")
    detail = serializers.CharField(help_text="For people.")
    errors = serializers.DictField(  # type: ignore[assignment]
        child=serializers.ListField(child=serializers.CharField()), required=False, help_text="By field."
    )
    run_id = serializers.UUIDField(required=False, help_text="The run that is in the way.")


_REFUSAL_HEADERS: Mapping[int, Shape] = {
    401: {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}, "example": "Token"}},
    429: {
        "Retry-After": {
            "description": "In seconds.",
            "required": True,
            "schema": {"type": "integer", "minimum": 1},
            "example": 5,
        }
    },
}
_EXAMPLE_FIELDS: Mapping[str, Shape] = {
    "INVALID": {"errors": {"title": ["This field is required."]}, "detail": "title: This field is required."},
    "A_RUN_ALREADY_ACTIVE": {"run_id": "0192f0c1-7a5e-7c1d-9f64-2b1d3c4e5f60"},
    "RUN_MISMATCH": {"run_id": "0192f0c1-7a5e-7c1d-9f64-2b1d3c4e5f60"},
}


class Schema(AutoSchema):
    """With what all routes have in common: how they refuse, which headers come with it, and what a stream is."""

    def get_description(self) -> str:  # type: ignore[override]
        return ""  # what the docstrings of the views say is for who reads their code

    def get_operation(self, *args: Any, **kwargs: Any) -> Shape | None:
        found: Shape | None = super().get_operation(*args, **kwargs)
        if found is None:
            return None
        for answer in found["responses"].values():
            answer["description"] = answer["description"] or f"{found['summary']}."
            content = answer.get("content", {})
            if EVENT_STREAM in content:
                # The body has no end that it could be described with: what is described is one event of it.
                content[EVENT_STREAM] = {"itemSchema": content[EVENT_STREAM]["schema"]}
        if "requestBody" in found:
            shape = self.get_request_serializer()
            # drf-spectacular knows what is required of serializers only, and of those no rules between fields.
            if isinstance(shape, dict) or getattr(shape, "rules", None):
                found["requestBody"]["required"] = True
        codes = set(self._refused(found))
        for status in sorted({CODES[code].status for code in codes}):
            same = [code for code in CODES if code in codes and CODES[code].status == status]
            found["responses"][str(status)] = self._refusal(status, same)
        return found

    def _refused(self, found: Shape) -> list[str]:
        codes = ["INVALID", "NOT_AUTHENTICATED", "INTERNAL", "UNAVAILABLE"]
        if self.method not in SAFE_METHODS:
            codes.append("CSRF_FAILED")
        elif any(isinstance(field, CursorField) for field in self.view.query_class().fields.values()):  # type: ignore[attr-defined]
            codes.append("CURSOR_INVALID")
        if "{" in self.path:
            codes.append("NOT_FOUND")
        if "requestBody" in found:
            codes += ["TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE"]
        return codes + list(getattr(self.view, self.method.lower()).refuses)

    def _refusal(self, status: int, codes: list[str]) -> Shape:
        shape = {
            "allOf": [self.resolve_serializer(ErrorOut, "response").ref],
            "properties": {"code": {"enum": codes}},
        }
        examples = {
            code: {"value": {"code": code, "detail": CODES[code].words, **_EXAMPLE_FIELDS.get(code, {})}}
            for code in codes
        }
        answer = {
            "description": " ".join(CODES[code].words for code in codes),
            "headers": _REFUSAL_HEADERS.get(status, {}),
            "content": {"application/json": {"schema": shape, "examples": examples}},
        }
        name = ".".join(codes)
        component = ResolvedComponent(  # type: ignore[no-untyped-call]
            name, ResolvedComponent.RESPONSE, schema=answer, object=name
        )
        self.registry.register_on_missing(component)
        return component.ref


@cache
def page_of(shape: type[serializers.Serializer[Any]]) -> serializers.Serializer[Any]:
    """The shape of one page of a list."""
    fields = {
        "next": serializers.URLField(allow_null=True),
        "previous": serializers.URLField(allow_null=True),
        "results": shape(many=True),
    }
    page: serializers.Serializer[Any] = inline_serializer(f"{shape.__name__.removesuffix('Out')}Page", fields)
    return page
