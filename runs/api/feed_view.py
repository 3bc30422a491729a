"""The door to the lifecycle feed."""

from __future__ import annotations

from django.http import HttpResponse, HttpResponseBase
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request

from chat.api.doors import Door
from chat.api.errors import ApiError
from chat.api.schema import operation, stream_headers
from runs import feed_stream
from runs.api import admission
from runs.api.guard import guarded, pass_of
from runs.api.stream_schema import FEED_ID, stream_of
from runs.api.views import streaming

HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
_LAST_ID = OpenApiParameter(
    "Last-Event-ID", FEED_ID, OpenApiParameter.HEADER, description="Of whoever comes back: the id it heard last."
)


class Feed(Door):
    @operation(
        "events",
        "What becomes of my runs, and new titles of my chats",
        description="An event `run` for each change of one of my runs, `title` for each new title of a chat of mine, "
        "`stream-reset` where some may be missing: read again what you show.",
        parameters=[_LAST_ID, *stream_headers(HEADERS)],
        responses=stream_of("FeedEvent"),
        refuses=("CURSOR_INVALID", *admission.REFUSES_A_STREAM),
    )
    def get(self, request: Request) -> HttpResponseBase:
        sent = request.headers.get("Last-Event-ID")
        if sent is not None and sent != feed_stream.last_event_id(request.user.pk):
            raise ApiError(400, "CURSOR_INVALID", "This is not the id of an event of yours.")
        if request.method == "HEAD":
            return HttpResponse(content_type="text/event-stream", headers=HEADERS)
        events = guarded(feed_stream.events(request.user, comes_back=sent is not None), pass_of(request, None))
        return streaming(admission.to_stream(request.user, events), "text/event-stream", HEADERS)
