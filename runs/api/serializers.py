"""Runs and steps as JSON, and what a request may say about them."""

from collections.abc import Iterable
from decimal import Decimal
from typing import Any, ClassVar

from django.conf import settings
from rest_framework import serializers

from agents.budget import Limits
from agents.models import LEAST_DOLLARS, LEAST_SECONDS, MOST_DOLLARS, MOST_SECONDS, MOST_STEPS, MOST_TOKENS, Role
from chat.api.doors import PageQuery
from chat.api.errors import ApiError
from chat.api.strict import (
    AmountField,
    CountField,
    CursorField,
    FlagField,
    IdField,
    NumberField,
    StrictSerializer,
    TextField,
)
from chat.parts import TextFile
from chat.serializers import FileIn, MessageOut, PartsField
from runs.api.stream_schema import ENTRY_ID
from runs.eventlog import EntryId, parse_entry_id
from runs.models import Run, Step


class UsageOut(serializers.Serializer[Any]):
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    cost_usd = serializers.FloatField()
    estimated = serializers.BooleanField(source="usage_estimated")


class LimitsOut(serializers.Serializer[Any]):
    steps = serializers.IntegerField(source="max_steps")
    tokens = serializers.IntegerField(source="max_tokens", allow_null=True)
    cost_usd = serializers.FloatField(source="max_cost_usd", allow_null=True)
    seconds = serializers.FloatField(source="max_seconds")


class RunOut(serializers.Serializer[Run]):
    id = serializers.UUIDField()
    chat_id = serializers.UUIDField()
    message_id = serializers.UUIDField(allow_null=True)
    status = serializers.ChoiceField(choices=Run.Status.choices)
    end_reason = serializers.SerializerMethodField()
    error = serializers.SerializerMethodField()
    trigger = serializers.ChoiceField(choices=Run.Trigger.choices)
    detached = serializers.BooleanField()
    model = serializers.CharField()
    role_id = serializers.UUIDField(allow_null=True)
    attempt = serializers.IntegerField()
    step_count = serializers.IntegerField()
    usage = UsageOut(source="*")
    limits = LimitsOut(source="*")
    worker = serializers.SerializerMethodField()
    heartbeat_at = serializers.DateTimeField(allow_null=True)
    created_by = serializers.IntegerField(source="created_by_id", allow_null=True)
    stop_requested_at = serializers.DateTimeField(allow_null=True)
    stop_requested_by = serializers.IntegerField(source="stop_requested_by_id", allow_null=True)
    stop_source = serializers.SerializerMethodField()
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)
    stream_url = serializers.SerializerMethodField()

    def get_end_reason(self, run: Run) -> str | None:
        return run.end_reason or None

    def get_error(self, run: Run) -> str | None:
        # A limit that made a success shorter is no error; `end_reason` with `limits` and `usage` tells of it.
        return None if run.status == Run.Status.SUCCEEDED else run.error or None

    def get_worker(self, run: Run) -> str | None:
        return run.worker or None

    def get_stop_source(self, run: Run) -> str | None:
        return run.stop_source or None

    def get_stream_url(self, run: Run) -> str:
        return f"/api/runs/{run.pk}/stream"


class StepUsageOut(serializers.Serializer[Step]):
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    cost_usd = serializers.FloatField()
    estimated = serializers.BooleanField(source="usage_estimated")


class StepOut(serializers.Serializer[Step]):
    index = serializers.IntegerField()
    attempt = serializers.IntegerField()
    parts = PartsField()
    usage = StepUsageOut(source="*")
    model = serializers.CharField()
    finish_reason = serializers.CharField()
    started_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField()


# More in one message is a mistake, or an archive that was unpacked.
MOST_FILES = 20


class LimitsIn(StrictSerializer):
    steps = CountField(required=False, min_value=1, max_value=MOST_STEPS)
    tokens = CountField(required=False, min_value=1, max_value=MOST_TOKENS)
    cost_usd = AmountField(required=False, min_value=LEAST_DOLLARS, max_value=MOST_DOLLARS)
    seconds = AmountField(required=False, min_value=LEAST_SECONDS, max_value=MOST_SECONDS)

    def limits(self, sent: dict[str, Any]) -> Limits:
        cost = Decimal(repr(sent["cost_usd"])).quantize(Decimal("1e-8")) if "cost_usd" in sent else None
        return Limits(sent.get("steps"), sent.get("tokens"), cost, sent.get("seconds"))

    def to_internal_value(self, data: Any) -> Limits:
        return self.limits(super().to_internal_value(data))


# In JSON Schema: a property that may not be there.
_ABSENT: dict[str, Any] = {"not": {}}


class RunStart(StrictSerializer):
    """A message, with or without `replaces`; or, without a text, `replaces` or `continue`."""

    rules: ClassVar = {
        "anyOf": [
            {"required": ["text"], "properties": {"continue": {"const": False}}},
            {"required": ["replaces"], "properties": {"continue": {"const": False}, "text": _ABSENT, "files": _ABSENT}},
            {
                "required": ["continue"],
                "properties": {"continue": {"const": True}, "text": _ABSENT, "files": _ABSENT, "replaces": _ABSENT},
            },
        ]
    }

    text = TextField(required=False)
    id = IdField(required=False)
    role = IdField(required=False)
    model = TextField(required=False, max_length=255)
    files = serializers.ListField(child=FileIn(), required=False, max_length=MOST_FILES)
    replaces = IdField(required=False)
    limits = LimitsIn(required=False)

    def get_fields(self) -> dict[str, Any]:
        # No attribute can have this name.
        return {**super().get_fields(), "continue": FlagField(required=False)}

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs.pop("continue", False):
            _expect_none_of(attrs, "text", "files", "replaces", because="This does not go with continue.")
        elif "text" not in attrs:
            if "replaces" not in attrs:
                raise serializers.ValidationError({"text": ["This field is required."]})
            _expect_none_of(attrs, "files", because="Files come with a text.")
        attrs["files"] = [TextFile(**file) for file in attrs.get("files", ())]
        expect_to_fit(attrs.get("text", ""), attrs["files"])
        return attrs


def expect_to_fit(text: str, files: Iterable[TextFile]) -> None:
    """Raises ApiError where a message is too large."""
    if sum(len(said.encode()) for said in (text, *(file.text for file in files))) > settings.MESSAGE_MAX_BYTES:
        detail = f"A message has at most {settings.MESSAGE_MAX_BYTES} bytes, its files included."
        raise ApiError(413, "TOO_LARGE", detail)


def _expect_none_of(attrs: dict[str, Any], *names: str, because: str) -> None:
    if found := [name for name in names if attrs.get(name)]:
        raise serializers.ValidationError({name: [because] for name in found})


class ChatStop(StrictSerializer):
    run_id = IdField(required=False)


class RoleLimitsOut(serializers.Serializer[Role]):
    """Its own; a run may be held to tighter ones."""

    steps = serializers.IntegerField(source="max_steps", allow_null=True)
    tokens = serializers.IntegerField(source="max_tokens", allow_null=True)
    cost_usd = serializers.FloatField(source="max_cost_usd", allow_null=True)
    seconds = serializers.FloatField(source="max_seconds", allow_null=True)


class RoleOut(serializers.Serializer[Role]):
    """What there is to choose by: its instructions are the business of whoever set it up."""

    id = serializers.UUIDField()
    workspace_id = serializers.UUIDField(allow_null=True)
    name = serializers.CharField()
    description = serializers.CharField()
    is_default = serializers.BooleanField()
    model = serializers.SerializerMethodField()
    tools = serializers.ListField(child=serializers.CharField())
    limits = RoleLimitsOut(source="*")

    def get_model(self, role: Role) -> str:
        return role.model or str(settings.AGENT_MODEL)


class StopOut(serializers.Serializer[Any]):
    stopped = serializers.BooleanField()
    state = serializers.ChoiceField(choices=["stopped", "requested", "already_final", "idle"])
    run = RunOut(allow_null=True)


class LatestOut(serializers.Serializer[Any]):
    run = RunOut(allow_null=True)
    message = MessageOut(allow_null=True)


class ModelsOut(serializers.Serializer[Any]):
    default = serializers.CharField()
    patterns = serializers.ListField(child=serializers.CharField())


class RunQuery(PageQuery):
    status = serializers.ChoiceField(choices=Run.Status.choices, required=False)
    chat = IdField(required=False)


class WaitQuery(StrictSerializer):
    timeout = NumberField(default=30.0, min_value=1, max_value=60)


class StreamQuery(StrictSerializer):
    after = CursorField(ENTRY_ID)


def cursor(text: str) -> EntryId:
    """Where a reader of a stream has got to. Raises ApiError."""
    parsed = parse_entry_id(text)
    if parsed is None:
        raise ApiError(400, "CURSOR_INVALID", "A cursor has the form {attempt}-{seq}.")
    return parsed
