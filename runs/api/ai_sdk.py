"""The doors for clients of the AI SDK (`useChat` and its like): one to say something, one to come back to the answer.

Source of every rule here: `docs/stream.md`, "AI SDK routes".
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import UUID

from django.db import transaction
from django.http import HttpResponse, HttpResponseBase
from drf_spectacular.utils import OpenApiResponse
from rest_framework import serializers
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.request import Request

from chat.api.parsing import JSONAsTextParser, JSONParser
from chat.api.schema import operation, stream_headers
from chat.api.strict import IdField, StrictSerializer, TextField
from chat.models import Chat, Message
from chat.parts import TextFile, text_of_data
from chat.serializers import file_name_field
from chat.views import ChatDoor
from runs import dispatch, stream
from runs.api import admission, ai_sdk_schema, starting
from runs.api.guard import guarded, pass_of
from runs.api.serializers import MOST_FILES, expect_to_fit
from runs.api.stream_schema import stream_of
from runs.api.views import streaming, trigger_of_turn
from runs.attached import attachments
from runs.models import Run

SUBMIT, REGENERATE = "submit-message", "regenerate-message"
STREAM = stream_of("RunStreamEvent")


class DataField(TextField):
    """A text in a `data:` URL, which is how these clients attach files."""

    default_error_messages: ClassVar = {"no_text": "This is no text file as a data: URL."}

    def to_internal_value(self, data: Any) -> str:
        try:
            return text_of_data(super().to_internal_value(data))
        except ValueError:
            self.fail("no_text")


class TextPart(serializers.Serializer[Any]):
    text = TextField(allow_blank=True)


class FilePart(serializers.Serializer[Any]):
    filename = file_name_field(default="file")
    url = DataField()


@dataclass(frozen=True, slots=True)
class Said:
    """What a person says, and what the client calls the message; nothing, where an answer is only written anew."""

    client_id: str = ""
    text: str = ""
    files: Sequence[TextFile] = ()


class UserMessage(serializers.Serializer[Any]):
    """A `UIMessage` of the person: becomes a `Said`."""

    id = TextField(required=False, default="", max_length=255)
    role = serializers.ChoiceField(choices=[Message.Role.USER.value])
    parts = serializers.ListField(child=serializers.DictField())

    def validate(self, attrs: dict[str, Any]) -> Said:
        said: list[str] = []
        files: list[TextFile] = []
        for number, part in enumerate(attrs["parts"]):
            shape = {"text": TextPart, "file": FilePart}.get(str(part.get("type")))
            if shape is None:
                raise ValidationError({"parts": {str(number): {"type": ["Only text and file go into a message."]}}})
            parsed = shape(data=part)
            if not parsed.is_valid():
                raise ValidationError({"parts": {str(number): parsed.errors}})
            if shape is TextPart:
                said.append(parsed.validated_data["text"])
            else:
                files.append(TextFile(parsed.validated_data["filename"], parsed.validated_data["url"]))
        if len(files) > MOST_FILES:
            raise ValidationError({"parts": [f"A message has at most {MOST_FILES} files."]})
        try:
            text = TextField().run_validation("".join(said))
        except ValidationError as error:
            raise ValidationError({"parts": error.detail}) from error
        expect_to_fit(text, files)
        return Said(attrs["id"], text, files)


class Conversation(serializers.ListField):
    """What was said before is ours to know: only what stands last is looked into, by whoever needs it."""

    child = serializers.DictField()

    def run_child_validation(self, data: Any) -> list[Any]:
        strange = next((place for place, one in enumerate(data) if not isinstance(one, dict)), None)
        if strange is not None:
            raise ValidationError({str(strange): ["This is no object."]})
        return list(data)


class ChatSend(serializers.Serializer[Any]):
    """The body of `DefaultChatTransport`. Of the conversation that it brings along only the last message is taken."""

    id = IdField()
    trigger = serializers.ChoiceField(choices=[SUBMIT, REGENERATE])
    messageId = TextField(required=False, max_length=255)  # noqa: N815
    messages = Conversation(allow_empty=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """The last message becomes `said`, unless a named answer is to be written anew."""
        messages = attrs.pop("messages")
        if attrs["trigger"] == REGENERATE and "messageId" in attrs:
            return attrs
        said = UserMessage(data=messages[-1])
        if not said.is_valid():
            raise ValidationError({"messages": {str(len(messages) - 1): said.errors}})
        return {**attrs, "said": said.validated_data}


class ChatStreamQuery(StrictSerializer):
    run = IdField(required=False)


class AiSdkDoor(ChatDoor):
    def events(self, run: Run) -> AsyncIterator[bytes]:
        """From `start`, and broken off where these clients would need a second one."""
        events = stream.events(run.pk, None, one_start=True)
        return guarded(events, pass_of(self.request, run.chat_id))


class ChatSendDoor(AiSdkDoor):
    parser_classes = (JSONParser, JSONAsTextParser)

    @operation(
        "ai_sdk_send",
        "Say something, or have an answer written anew, and follow the run: for AI SDK clients",
        parameters=stream_headers(stream.HEADERS),
        request=ai_sdk_schema.REQUEST,
        responses=STREAM,
        refuses=("NO_WORKSPACE", "NOT_FOUND", *starting.REFUSES, *admission.REFUSES_A_STREAM),
    )
    def post(self, request: Request) -> HttpResponseBase:
        body = self.body(request, ChatSend)
        # First: a run that nobody may follow is not begun.
        place = admission.place_of_stream(request.user)
        try:
            run = self._begun(body)
        except BaseException:
            place.close()
            raise
        pieces = place.carrying(attachments.stream_of(run, self.events(run)))
        return streaming(pieces, "text/event-stream", stream.HEADERS)

    def _begun(self, body: dict[str, Any]) -> Run:
        known = self.chats().filter(pk=body["id"]).first()
        if known is not None:
            return self._turn(known, body)
        fields = {"workspace": self.workspace(None, "id"), "created_by_id": self.request.user.pk}
        with transaction.atomic():  # a turn that is refused leaves no chat behind
            chat, is_new = Chat.objects.get_or_create(pk=body["id"], defaults=fields)
            if is_new:
                return self._turn(chat, body)
        return self._turn(self.chat(body["id"]), body)  # somebody's; of this person if it was made just now

    def _turn(self, chat: Chat, body: dict[str, Any]) -> Run:
        starting.check_switches(chat.workspace, detached=False)
        answer = _answer(chat, body) if body["trigger"] == REGENERATE else None
        said = Said() if answer else body["said"]
        edited = None if answer else _stored(chat, said.client_id)
        replaced = answer or edited
        start = dispatch.Start(
            chat=chat,
            user=self.request.user,
            text=said.text,
            trigger=trigger_of_turn(self.request),
            files=said.files,
            replaces=replaced.pk if replaced else None,
            client_id=said.client_id,
            detached=chat.workspace.autonomous_runs,
        )
        run, _ = starting.start(start)
        return run


def _stored(chat: Chat, name: str) -> Message | None:
    return Message.objects.current().filter(chat=chat).called(name).first() if name else None


def _answer(chat: Chat, body: dict[str, Any]) -> Message | None:
    """What is to be written anew: the named answer, or that to the named message. Clients that name nothing mean the
    answer to what was said last; None if that never got here, so that there is none. Raises NotFound."""
    is_named = "messageId" in body
    found = _stored(chat, body["messageId"] if is_named else body["said"].client_id)
    if found is None and not is_named:
        return None
    if found is not None and found.role == Message.Role.USER:
        found = Message.objects.current().after(found).order_by("created_at", "pk").first()
    if found is None:
        raise NotFound
    return found


class ChatStreamDoor(AiSdkDoor):
    query_class = ChatStreamQuery

    @operation(
        "ai_sdk_stream",
        "Follow a chat's run from its start: for AI SDK clients",
        parameters=[ChatStreamQuery, *stream_headers(stream.HEADERS)],
        responses={**STREAM, 204: OpenApiResponse(None, "Nothing runs there.")},
        refuses=admission.REFUSES_A_STREAM,
    )
    def get(self, request: Request, chat: UUID) -> HttpResponseBase:
        runs = Run.objects.filter(chat=self.chat(chat))
        wanted = self.query.get("run")
        if wanted is None:
            run = runs.active().first()
        elif runs.filter(pk=wanted).exists():
            # What was replaced since is no part of the conversation: the page has to look at that again.
            run = runs.filter(pk=wanted, message__replaced_at=None).first()
        else:
            raise NotFound
        if run is None:
            return HttpResponse(status=204)
        if request.method == "HEAD":
            return HttpResponse(content_type="text/event-stream", headers=stream.HEADERS)
        return streaming(admission.to_stream(request.user, self.events(run)), "text/event-stream", stream.HEADERS)
