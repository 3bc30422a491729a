"""How the routes describe themselves in OpenAPI."""

from functools import cache
from typing import Any

from drf_spectacular.authentication import SessionScheme as DrfSessionScheme
from drf_spectacular.contrib.knox_auth_token import KnoxTokenScheme
from drf_spectacular.extensions import OpenApiSerializerExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import inline_serializer
from rest_framework import serializers


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

    def map_serializer(self, auto_schema: Any, direction: str) -> dict[str, Any]:
        shape: dict[str, Any] = auto_schema._map_serializer(self.target, direction, bypass_extensions=True)
        shape.pop("description", None)
        return {**shape, "additionalProperties": False}


class ErrorOut(serializers.Serializer[Any]):
    code = serializers.CharField(help_text="UPPER_SNAKE, for programs.")
    detail = serializers.CharField(help_text="For people.")
    errors = serializers.DictField(  # type: ignore[assignment]
        child=serializers.ListField(child=serializers.CharField()), required=False, help_text="By field."
    )
    run_id = serializers.UUIDField(required=False, help_text="The run that is in the way.")


class Schema(AutoSchema):
    """Every route may answer an error, in the one shape."""

    def get_description(self) -> str:  # type: ignore[override]
        return ""  # what the docstrings of the views say is for who reads their code

    def get_operation(self, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        operation: dict[str, Any] | None = super().get_operation(*args, **kwargs)
        if operation is not None:
            error = {"application/json": {"schema": self.resolve_serializer(ErrorOut, "response").ref}}
            operation["responses"]["4XX"] = {"description": "Refused.", "content": error}
            operation["responses"]["5XX"] = {"description": "Failed.", "content": error}
        return operation


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
