"""A web process with one more door: it starts a run whose stream owns it, as its workspace wants."""

from collections.abc import AsyncIterator
from uuid import UUID

from config.asgi import application

__all__ = ["application"]

from django.http import HttpRequest, StreamingHttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from chat.models import Chat
from config.urls import urlpatterns
from runs import dispatch, stream
from runs.attached import attachments
from runs.models import Run


@csrf_exempt
def start(request: HttpRequest, chat: UUID) -> StreamingHttpResponse:
    found = Chat.objects.select_related("workspace").get(pk=chat)
    text, detached = request.body.decode(), found.workspace.autonomous_runs
    wanted = dispatch.Start(found, found.created_by, text, Run.Trigger.USER, detached=detached)
    run, _ = dispatch.start_run(wanted)
    pieces: AsyncIterator[bytes] = attachments.stream_of(run, stream.events(run.pk, None))
    return StreamingHttpResponse(pieces, content_type="text/event-stream", headers={**stream.HEADERS, "X-Run": run.pk})


urlpatterns.insert(0, path("test/start/<uuid:chat>", start))
