"""The doors to runs, and to chats as far as they show runs."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.db.models import OuterRef, Subquery
from django.http import HttpResponse, HttpResponseBase, StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse
from knox.auth import TokenAuthentication
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from agents.budget import Limits
from agents.models import Role
from chat import views as chat_views
from chat.access import ChatQuerySet
from chat.api.doors import Door, PageQuery
from chat.api.errors import ApiError
from chat.api.schema import answer_header, operation, page_of, stream_headers
from chat.api.strict import NoFields
from chat.export import export
from chat.models import Chat, Message, Workspace
from chat.serializers import ExportOut, ExportQuery, MessageOut, MessageQuery
from runs import dispatch, early_stop, eventlog, feed, journal, stop, stream
from runs.api import admission, starting
from runs.api.guard import guarded, pass_of
from runs.api.serializers import (
    ChatStop,
    LatestOut,
    ModelsOut,
    RoleOut,
    RunOut,
    RunQuery,
    RunStart,
    StepOut,
    StopOut,
    StreamQuery,
    WaitQuery,
    cursor,
)
from runs.api.starting import no_such_role, not_found
from runs.api.stream_schema import ENTRY_ID, stream_of
from runs.database import in_thread
from runs.errors import BrokenOff
from runs.models import Run, RunQuerySet
from runs.roles import Wish


class ChatDoor(chat_views.ChatDoor):
    def chats(self) -> ChatQuerySet:
        active = Run.objects.active().filter(chat=OuterRef("pk")).values("pk")[:1]
        return super().chats().annotate(active_run_id=Subquery(active)).select_related("workspace")


class ChatList(ChatDoor, chat_views.ChatList):
    def before_role(self, role: UUID, workspace: Workspace) -> None:
        if not Role.objects.usable_in([workspace]).filter(pk=role).exists():
            raise no_such_role()


class ChatDetail(ChatDoor, chat_views.ChatDetail):
    def before_delete(self, chat: Chat) -> None:
        # Locked: a worker adds a step only to a run that it could update.
        for run_id in Run.objects.active().filter(chat=chat).select_for_update().values_list("pk", flat=True):
            stop.request_stop(run_id, self.request.user.pk, "chat_deleted")

    def after_rename(self, chat: Chat) -> None:
        feed.title_changed(chat.pk)


_ACTIVE_RUN = answer_header(
    "X-Active-Run", {"type": "string", "format": "uuid"}, "The run whose message was left out, if any.", required=False
)
_LOCATION = answer_header("Location", {"type": "string", "format": "uri-reference"}, "The run.", statuses=[200, 202])
_KEY = OpenApiParameter(
    "Idempotency-Key",
    {"type": "string", "pattern": starting.KEY.pattern, "examples": ["7d0a6c1e-order-4711"]},
    OpenApiParameter.HEADER,
    description="The same key and body again, within 24 hours, are answered with the same run.",
)
_REPLAYED = answer_header("Idempotent-Replayed", {"const": "true"}, "It was begun before.")
_FILE = answer_header("Content-Disposition", {"type": "string"}, "A file name.")
_LAST_ID = OpenApiParameter(
    "Last-Event-ID",
    ENTRY_ID,
    OpenApiParameter.HEADER,
    description="The id of the last event that was read: what comes behind it is sent.",
)
_EXPORTS = {(200, "text/markdown"): OpenApiTypes.STR, (200, "application/json"): ExportOut}


class ChatMessages(ChatDoor):
    query_class = MessageQuery

    @operation(
        "chats_messages",
        "What was said in a chat; an answer that is being written as far as it is known",
        parameters=[MessageQuery, _ACTIVE_RUN],
        responses=page_of(MessageOut),
    )
    def get(self, request: Request, chat: UUID) -> Response:
        messages = Message.objects.current().filter(chat=self.chat(chat)).select_related("run")
        active = Run.objects.active().filter(chat=chat).first()
        if active and self.query["exclude_active"] == "1":
            messages = messages.exclude(run=active.pk)
        newest_first = "-" if self.query["order"] == "newest" else ""
        response = self.page(messages, LiveMessageOut, f"{newest_first}created_at", f"{newest_first}id")
        if active and self.query["exclude_active"] == "1":
            response["X-Active-Run"] = str(active.pk)
        return response


class LiveMessageOut(MessageOut):
    """The message of a live run is read from its journal and its log."""

    def to_representation(self, instance: Message) -> dict[str, Any]:
        return dict(super().to_representation(_with_live_parts(instance)))


def _with_live_parts(message: Message) -> Message:
    run: Run | None = getattr(message, "run", None)
    message.run_id = run.pk if run else None  # type: ignore[attr-defined]
    if run and message.status == Message.Status.STREAMING:
        now = journal.message_of(run, eventlog.read(run.pk, run.attempt))
        message.parts, message.metadata = now.parts, now.metadata
    return message


class ChatExport(ChatDoor):
    query_class = ExportQuery

    @operation("chats_export", "A chat as a file", parameters=[ExportQuery, _FILE], responses=_EXPORTS)
    def get(self, request: Request, chat: UUID) -> HttpResponse:
        found = self.chat(chat)
        messages = Message.objects.current().filter(chat=found).select_related("run").order_by("created_at", "pk")
        return export(found, [LiveMessageOut(message).data for message in messages], self.query["format"])


class ChatRuns(ChatDoor):
    query_class = PageQuery

    @operation("chats_runs_list", "A chat's runs, newest first", parameters=[PageQuery], responses=page_of(RunOut))
    def get(self, request: Request, chat: UUID) -> Response:
        return self.page(Run.objects.filter(chat=self.chat(chat)), RunOut, "-created_at", "-id")

    @operation(
        "chats_runs_start",
        "Start a turn, detached",
        parameters=[_KEY, _REPLAYED, _LOCATION],
        request=RunStart,
        responses={
            202: OpenApiResponse(RunOut, "The run, to be followed at its `stream_url`."),
            200: OpenApiResponse(RunOut, "The run that the same request began before."),
        },
        refuses=("ID_TAKEN", *starting.REFUSES, "AUTONOMOUS_RUNS_OFF", "IDEMPOTENCY_CONFLICT"),
    )
    def post(self, request: Request, chat: UUID) -> Response:
        found = self.chat(chat)
        body = self.body(request, RunStart)
        starting.check_switches(found.workspace, detached=True)
        start = dispatch.Start(
            chat=found,
            user=request.user,
            text=body.get("text", ""),
            trigger=_trigger(request, body),
            wish=Wish(body.get("role"), body.get("model"), body.get("limits", Limits())),
            run_id=body.get("id"),
            files=body["files"],
            replaces=body.get("replaces"),
            key=starting.key_of(request),
        )
        run, is_new = starting.start(start)
        response = Response(RunOut(run).data, status=202 if is_new else 200)
        if not is_new:
            response["Idempotent-Replayed"] = "true"
        response["Location"] = f"/api/runs/{run.pk}"
        return response


def _trigger(request: Request, body: dict[str, Any]) -> Run.Trigger:
    if "text" not in body and "replaces" not in body:
        return Run.Trigger.CONTINUE
    return trigger_of_turn(request)


def trigger_of_turn(request: Request) -> Run.Trigger:
    by_token = isinstance(request.successful_authenticator, TokenAuthentication)
    return Run.Trigger.API if by_token else Run.Trigger.USER


class ChatLatestRun(ChatDoor):
    @operation("chats_latest_run", "A chat's latest run, and the message it writes", responses=LatestOut)
    def get(self, request: Request, chat: UUID) -> Response:
        found = self.chat(chat)
        run = Run.objects.filter(chat=found).select_related("message").order_by("-created_at", "-pk").first()
        message = _with_live_parts(run.message) if run and run.message else None
        return Response(
            {"run": RunOut(run).data if run else None, "message": MessageOut(message).data if message else None}
        )


class ChatStopDoor(ChatDoor):
    @operation(
        "chats_stop",
        "Stop whatever runs in a chat",
        request=ChatStop,
        responses=StopOut,
        refuses=("RUN_MISMATCH", "RATE_LIMITED"),
    )
    def post(self, request: Request, chat: UUID) -> Response:
        found = self.chat(chat)
        wanted = self.body(request, ChatStop).get("run_id")
        active = Run.objects.active().filter(chat=found).first()
        if wanted is not None and active is not None and active.pk != wanted:
            raise ApiError(409, "RUN_MISMATCH", "Another run is active in this chat now.", run_id=str(active.pk))
        if wanted is not None:
            _expect_known(Run.objects.filter(chat=found), wanted, request)
        run_id = wanted or (active.pk if active else None)
        if run_id is None:
            return Response({"stopped": False, "state": "idle", "run": None})
        return _stopped(run_id, request)


def _expect_known(runs: RunQuerySet, run_id: UUID, request: Request) -> None:
    """Where nobody knows the run the stop is remembered, and answered as any other that names nothing."""
    if runs.filter(pk=run_id).exists():
        return
    admission.to_stop_early(request.user)
    if early_stop.remember(run_id, request.user) or not runs.filter(pk=run_id).exists():
        raise not_found()


def _stopped(run_id: UUID, request: Request) -> Response:
    answer = stop.request_stop(run_id, request.user.pk, "user")
    if answer is None:
        raise not_found()
    if answer.run.is_terminal:
        state = "stopped" if answer.took_effect else "already_final"
    else:
        state = "requested"
    return Response({"stopped": answer.took_effect, "state": state, "run": RunOut(answer.run).data})


class RunDoor(Door):
    def run(self, run: UUID) -> Run:
        found = Run.objects.owned_by(self.request.user).filter(pk=run).first()
        if found is None:
            raise not_found()
        return found


class RunList(Door):
    query_class = RunQuery

    @operation("runs_list", "My runs, newest first", parameters=[RunQuery], responses=page_of(RunOut))
    def get(self, request: Request) -> Response:
        runs = Run.objects.owned_by(request.user)
        wanted = {name: self.query[name] for name in ("status", "chat") if name in self.query}
        return self.page(runs.filter(**wanted), RunOut, "-created_at", "-id")


class RunDetail(RunDoor):
    @operation("runs_read", "One run", responses=RunOut)
    def get(self, request: Request, run: UUID) -> Response:
        return Response(RunOut(self.run(run)).data)


class RunSteps(RunDoor):
    query_class = PageQuery

    @operation("runs_steps", "A run's journal", parameters=[PageQuery], responses=page_of(StepOut))
    def get(self, request: Request, run: UUID) -> Response:
        return self.page(self.run(run).steps.all(), StepOut, "index")


class RunStop(RunDoor):
    @operation("runs_stop", "Ask for a stop", request=NoFields, responses=StopOut, refuses=("RATE_LIMITED",))
    def post(self, request: Request, run: UUID) -> Response:
        self.body(request, NoFields)
        _expect_known(Run.objects.owned_by(request.user), run, request)
        return _stopped(run, request)


class RunStream(RunDoor):
    query_class = StreamQuery

    @operation(
        "runs_stream",
        "Follow a run: every chunk of its message, from the first or from behind a cursor on",
        parameters=[StreamQuery, _LAST_ID, *stream_headers(stream.HEADERS)],
        responses=stream_of("RunStreamEvent"),
        refuses=("CURSOR_INVALID", *admission.REFUSES_A_STREAM),
    )
    def get(self, request: Request, run: UUID) -> HttpResponseBase:
        found = self.run(run)
        sent = request.headers.get("Last-Event-ID", self.query.get("after"))
        after = cursor(sent) if sent is not None else None
        if request.method == "HEAD":
            return HttpResponse(content_type="text/event-stream", headers=stream.HEADERS)
        events = guarded(stream.events(found.pk, after), pass_of(request, found.chat_id))
        pieces = admission.to_stream(request.user, events)
        return streaming(pieces, "text/event-stream", stream.HEADERS)


class RunWait(RunDoor):
    query_class = WaitQuery

    @operation(
        "runs_wait", "One run, as soon as it has ended or the time is up", parameters=[WaitQuery], responses=RunOut
    )
    def get(self, request: Request, run: UUID) -> HttpResponseBase:
        found = self.run(run)
        seconds = 0.0 if found.is_terminal or request.method == "HEAD" else self.query["timeout"]
        return streaming(_run_when_ended(found.pk, seconds), "application/json", {"Cache-Control": "no-store"})


def streaming(body: AsyncIterable[bytes], content_type: str, headers: dict[str, str]) -> StreamingHttpResponse:
    """For doors that wait: they hold neither a thread nor a database connection meanwhile."""
    if not connection.in_atomic_block:
        connection.close()
    return StreamingHttpResponse(body, content_type=content_type, headers=headers)


async def _run_when_ended(run_id: UUID, seconds: float) -> AsyncIterator[bytes]:
    if seconds:
        await stream.ended(run_id, seconds)
    run = await in_thread(Run.objects.filter(pk=run_id).first)
    if run is None:
        raise BrokenOff
    yield JSONRenderer().render(RunOut(run).data)


class Models(Door):
    @operation("models", "What a run may name as its model: fnmatch patterns", responses=ModelsOut)
    def get(self, request: Request) -> Response:
        return Response({"default": settings.AGENT_MODEL, "patterns": settings.AGENT_MODELS})


class RoleList(Door):
    query_class = PageQuery

    @operation("roles_list", "The roles I may use", parameters=[PageQuery], responses=page_of(RoleOut))
    def get(self, request: Request) -> Response:
        joined = Workspace.objects.joined_by(request.user)
        return self.page(Role.objects.usable_in(joined), RoleOut, "name", "id")
