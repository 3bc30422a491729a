"""What every route is: strict in body and query, its lists in cursor pages."""

from __future__ import annotations

from typing import Any

from django.core.signing import BadSignature, Signer
from django.http import HttpRequest
from rest_framework import pagination, serializers
from rest_framework.exceptions import MethodNotAllowed
from rest_framework.permissions import SAFE_METHODS
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param
from rest_framework.views import APIView

from chat.api.errors import ApiError
from chat.api.schema import Schema
from chat.api.strict import CursorField, NoFields, StrictSerializer, WholeNumberField

MOST_PER_PAGE = 200


class PageQuery(StrictSerializer):
    """Of every list."""

    limit = WholeNumberField(required=False, min_value=1, max_value=MOST_PER_PAGE)
    cursor = CursorField(
        {"type": "string", "minLength": 1, "description": "Out of the address of a next or previous page."}
    )


class Door(APIView):
    """A route: parse, authorise, call one verb, serialise. A GET may have behind its `?` what `query_class` says."""

    query_class: type[StrictSerializer] = NoFields
    http_method_names = ["get", "head", "post", "patch", "delete"]
    schema: Any = Schema()

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        # DRF takes a body without a Content-Length, which is what chunks make, for no body at all.
        request.META["CONTENT_LENGTH"] = str(len(request.body))
        return super().initialize_request(request, *args, **kwargs)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if request.method not in self.allowed_methods:
            raise MethodNotAllowed(str(request.method))
        self.query = self._query(request)

    def _query(self, request: Request) -> dict[str, Any]:
        repeated = {
            name[:100]: ["Given more than once."] for name, values in request.query_params.lists() if len(values) > 1
        }
        if repeated:
            raise serializers.ValidationError(repeated)
        shape = self.query_class if request.method in SAFE_METHODS else NoFields
        query = shape(data=request.query_params.dict())
        query.is_valid(raise_exception=True)
        return dict(query.validated_data)

    def body(self, request: Request, shape: type[serializers.Serializer[Any]]) -> dict[str, Any]:
        parsed = shape(data=request.data, context={"request": request})
        parsed.is_valid(raise_exception=True)
        return dict(parsed.validated_data)

    def page(self, queryset: Any, shape: type[serializers.Serializer[Any]], *ordering: str) -> Response:
        """One page of the queryset in this order, which ends in a unique field."""
        pages = CursorPages(self, ordering)
        rows: list[Any] | None = pages.paginate_queryset(queryset, self.request, self)
        return pages.get_paginated_response(shape(rows, many=True, context={"request": self.request}).data)


class CursorPages(pagination.CursorPagination):
    """Cursors are signed for their list and their user: nobody else's, no other list's and no forged one is taken."""

    page_size = 50
    max_page_size = MOST_PER_PAGE
    page_size_query_param = "limit"

    def __init__(self, view: Door, ordering: tuple[str, ...]) -> None:
        self.ordering = ordering
        self._signer = Signer(salt=f"cursor:{view.request.path}:{view.request.user.pk}:{ordering}")

    def decode_cursor(self, request: Request) -> pagination.Cursor | None:
        sent = request.query_params.get(self.cursor_query_param)
        if sent is None:
            return None
        try:
            return pagination.Cursor(*self._signer.unsign_object(sent))
        except BadSignature as error:
            raise ApiError(400, "CURSOR_INVALID", "The cursor is none that this list gave out.") from error

    def encode_cursor(self, cursor: pagination.Cursor) -> str:
        return replace_query_param(self.base_url or "", self.cursor_query_param, self._signer.sign_object(list(cursor)))
