"""What people see: workspaces, who belongs to them, their chats and the messages in them, and the tokens of their
programs."""

from __future__ import annotations

from decimal import Decimal

from django.conf import settings
from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.search import SearchVectorField
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import F, Func, Value
from django.db.models.functions import Now
from django.utils import timezone
from knox.models import AbstractAuthToken
from uuid_utils.compat import uuid7

from chat.access import ChatQuerySet, MessageQuerySet, WorkspaceQuerySet

# A tsvector holds at most 1 MiB; this many characters always fit, whatever the words are.
SEARCHED_CHARACTERS = 100_000


def _search_vector(text: F | Func) -> Func:
    """The 'simple' configuration: no stemming, so every language is searched alike."""
    return Func(
        Func(text, Value(SEARCHED_CHARACTERS), function="left"),
        function="to_tsvector",
        template="%(function)s('simple'::regconfig, %(expressions)s)",
    )


class Workspace(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=255)
    ai_chat = models.BooleanField(default=True, help_text="Off: nobody starts a turn here.")
    autonomous_runs = models.BooleanField(
        default=False, help_text="On: turns go on when the connection that started them is gone."
    )
    daily_tokens = models.BigIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1)], help_text="For each person and day (UTC)."
    )
    daily_cost_usd = models.DecimalField(
        "daily cost in dollars",
        null=True,
        blank=True,
        max_digits=14,
        decimal_places=8,
        validators=[MinValueValidator(Decimal("0.00000001"))],
        help_text="For each person and day (UTC).",
    )
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    objects = WorkspaceQuerySet.as_manager()

    def __str__(self) -> str:
        return self.name


class Membership(models.Model):
    class Role(models.TextChoices):
        OWNER = "owner"
        MEMBER = "member"

    workspace = models.ForeignKey(Workspace, models.CASCADE, related_name="memberships")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role, default=Role.MEMBER)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["workspace", "user"], name="one_membership_per_workspace")]

    def __str__(self) -> str:
        return f"{self.user} in {self.workspace}"


class Chat(models.Model):
    """A conversation of one person. `updated_at` is its newest activity, by the database's clock."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    workspace = models.ForeignKey(Workspace, models.CASCADE, related_name="chats")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="chats")
    title = models.CharField(max_length=255, blank=True)
    # By name: chats and agents know nothing of each other's code. Whose role is gone takes the default.
    role = models.ForeignKey("agents.Role", models.SET_NULL, null=True, blank=True, related_name="+")
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_at = models.DateTimeField(db_default=Now(), editable=False)
    search = models.GeneratedField(
        expression=_search_vector(F("title")), output_field=SearchVectorField(), db_persist=True
    )

    objects = ChatQuerySet.as_manager()

    class Meta:
        indexes = [
            # GET /api/chats
            models.Index(fields=["created_by", "-updated_at", "id"], name="chats_by_activity"),
            # GET /api/chats?q= and the agent's search tool
            GinIndex(fields=["search"], name="chats_by_title"),
        ]

    def __str__(self) -> str:
        return self.title or f"untitled {self.id.hex[-12:]}"


class Message(models.Model):
    """One message: `parts` are AI SDK UI message parts.

    The assistant message of a live run has status streaming and no parts: it is read from the run's journal and log,
    and written once, when the run is settled.
    """

    class Role(models.TextChoices):
        USER = "user"
        ASSISTANT = "assistant"

    class Status(models.TextChoices):
        STREAMING = "streaming"
        COMPLETED = "completed"
        ERROR = "error"
        ABORTED = "aborted"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    chat = models.ForeignKey(Chat, models.CASCADE, related_name="messages")
    role = models.CharField(max_length=16, choices=Role)
    client_id = models.CharField(
        max_length=255,
        blank=True,
        default="",
        db_default="",
        help_text="What the client that sent it calls it, if anything.",
    )
    parts = models.JSONField(default=list)
    status = models.CharField(max_length=16, choices=Status, default=Status.COMPLETED)
    metadata = models.JSONField(default=dict)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    # The time of the statement, not of the transaction: the two messages of a turn are written in order.
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_at = models.DateTimeField(db_default=Now(), editable=False)
    replaced_at = models.DateTimeField(null=True, help_text="Since then another message stands in its place.")
    # `chat_message_text` comes with the first migration: the text parts, joined.
    search = models.GeneratedField(
        expression=_search_vector(Func(F("parts"), function="chat_message_text")),
        output_field=SearchVectorField(),
        db_persist=True,
    )

    objects = MessageQuerySet.as_manager()

    class Meta:
        indexes = [
            # the messages of a chat in order, and its history
            models.Index(fields=["chat", "created_at", "id"], name="messages_in_order"),
            # GET /api/chats?q= and the agent's search tool
            GinIndex(fields=["search"], name="messages_by_words"),
        ]
        constraints = [
            models.CheckConstraint(condition=models.Q(role__in=["user", "assistant"]), name="message_role_is_known"),
            models.CheckConstraint(
                condition=models.Q(status__in=["streaming", "completed", "error", "aborted"]),
                name="message_status_is_known",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.role} message {self.id}"


class Token(AbstractAuthToken):  # type: ignore[misc]
    """Lets the programs of one person in; only a digest of it is kept. Make one with `Token.objects.create(user,
    name=..., expiry=...)`, which answers (row, secret)."""

    # knox's key is the digest, which would stand in the addresses of pages and in the log of the admin site.
    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    digest = models.CharField(max_length=128, unique=True, editable=False)
    name = models.CharField(max_length=100, help_text="What it is for.")
    last_used_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        constraints = [models.CheckConstraint(condition=~models.Q(name=""), name="token_has_a_name")]

    def __str__(self) -> str:
        return self.name

    @property
    def is_expired(self) -> bool:
        return self.expiry is not None and self.expiry <= timezone.now()
