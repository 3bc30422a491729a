"""The door to the lifecycle feed."""

from __future__ import annotations

from django.http import HttpResponse, HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request

from chat.api.doors import Door
from chat.api.errors import ApiError
from runs import admission, feed_stream
from runs.views import streaming

HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}


class Feed(Door):
    @extend_schema(
        parameters=[OpenApiParameter("Last-Event-ID", str, OpenApiParameter.HEADER)],
        responses={(200, "text/event-stream"): OpenApiTypes.STR},
        operation_id="events",
        description="An event `run` for each change of one of my runs, `title` for each new title of a chat of mine, "
        "`stream-reset` where some may be missing: read again what you show.",
    )
    def get(self, request: Request) -> HttpResponseBase:
        sent = request.headers.get("Last-Event-ID")
        if sent is not None and sent != feed_stream.last_event_id(request.user.pk):
            raise ApiError(400, "CURSOR_INVALID", "This is not the id of an event of yours.")
        if request.method == "HEAD":
            return HttpResponse(content_type="text/event-stream", headers=HEADERS)
        events = feed_stream.events(request.user, comes_back=sent is not None)
        return streaming(admission.to_stream(request.user, events), "text/event-stream", HEADERS)
