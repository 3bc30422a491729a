"""Chats and messages as JSON, and what a request may say about them."""

from typing import Any

from django.core.validators import RegexValidator
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from chat.api.doors import PageQuery
from chat.api.strict import SHOWING, IdField, StrictSerializer, TextField
from chat.models import Chat, Membership, Message
from chat.parts import text_of


class WorkspaceOut(serializers.Serializer[Membership]):
    id = serializers.UUIDField(source="workspace.id")
    name = serializers.CharField(source="workspace.name")
    role = serializers.ChoiceField(choices=Membership.Role.choices)
    ai_chat = serializers.BooleanField(source="workspace.ai_chat")
    autonomous_runs = serializers.BooleanField(source="workspace.autonomous_runs")


class MeOut(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    username = serializers.CharField()
    workspaces = WorkspaceOut(many=True)


class ChatOut(serializers.Serializer[Chat]):
    """`active_run_id` comes with the queryset: a chat by itself does not know about runs."""

    id = serializers.UUIDField()
    workspace_id = serializers.UUIDField()
    title = serializers.CharField()
    role_id = serializers.UUIDField(allow_null=True)
    active_run_id = serializers.UUIDField(allow_null=True, default=None)
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


class ChatCreate(StrictSerializer):
    id = IdField(required=False)
    title = TextField(required=False, allow_blank=True, max_length=255)
    role = IdField(required=False)
    workspace = IdField(required=False)


class ChatChange(StrictSerializer):
    title = TextField(allow_blank=True, max_length=255)


class ChatQuery(PageQuery):
    q = TextField(required=False, max_length=500)


class MessageQuery(PageQuery):
    order = serializers.ChoiceField(choices=["oldest", "newest"], default="oldest")
    exclude_active = serializers.ChoiceField(choices=["0", "1"], default="0")


@extend_schema_field({"type": "array", "items": {"$ref": "#/components/schemas/Part"}})
class PartsField(serializers.ListField):
    child = serializers.DictField()


class MessageOut(serializers.Serializer[Message]):
    id = serializers.UUIDField()
    chat_id = serializers.UUIDField()
    role = serializers.ChoiceField(choices=Message.Role.choices)
    parts = PartsField()
    text = serializers.SerializerMethodField()
    status = serializers.ChoiceField(choices=Message.Status.choices)
    metadata = serializers.DictField()
    run_id = serializers.UUIDField(allow_null=True, default=None)
    created_at = serializers.DateTimeField()

    def get_text(self, message: Message) -> str:
        return text_of(message.parts)


# No path, nothing that breaks a line, and nothing that makes a name read as another one than it is: the marks that turn
# the direction of a text around.
FILE_NAME = rf"^(?!\.{{1,2}}\Z)(?=.*{SHOWING})[^/\\\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+\Z"


def file_name_field(**options: Any) -> TextField:
    reason = "A file's name is no path and has no control characters."
    return TextField(max_length=255, validators=[RegexValidator(FILE_NAME, reason)], **options)


class FileIn(StrictSerializer):
    name = file_name_field()
    text = TextField(allow_blank=True)


class ExportOut(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    title = serializers.CharField()
    messages = MessageOut(many=True)


class ExportQuery(StrictSerializer):
    format = serializers.ChoiceField(choices=["markdown", "json"], default="markdown")
