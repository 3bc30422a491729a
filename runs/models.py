"""The run, the steps it took and the tools it called: one row each, held together by constraints."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any, Self

from django.conf import settings
from django.db import models
from django.db.models import Q, Value
from django.db.models.functions import Now
from uuid_utils.compat import uuid7

from agents.llm import Usage
from agents.models import Role
from chat.models import Chat, Message, Workspace

# `docs/api.md`: idempotency keys last 24 h, a stop of a run id that nobody knows 5 minutes.
KEY_LIFETIME = timedelta(hours=24)
EARLY_STOP_LIFETIME = timedelta(minutes=5)


def abandoned_for(window_seconds: float) -> Q:
    """Attached, but nobody has known its stream to be open for a whole window of the database's clock."""
    return Q(detached=False, attached_seen_at__lt=Now() - timedelta(seconds=window_seconds))


class RunQuerySet(models.QuerySet["Run"]):
    def owned_by(self, user: Any) -> Self:
        return self.filter(chat__created_by=user, workspace__memberships__user=user)

    def active(self) -> Self:
        return self.filter(status__in=Run.ACTIVE)

    def held(self, run_id: object, attempt: int) -> Self:
        """The row as its holder may write it: the fence of every write of a worker (promise 4)."""
        return self.filter(pk=run_id, attempt=attempt, status=Run.Status.RUNNING)

    def stale(self, window_seconds: float) -> Self:
        """Running, but its worker has not been heard of for a whole window of the database's clock."""
        return self.filter(status=Run.Status.RUNNING, heartbeat_at__lt=Now() - timedelta(seconds=window_seconds))

    def keyed(self, user: Any, key: str) -> Self:
        """What this person's idempotency key stands for, as long as it does."""
        return self.filter(created_by=user, idempotency_key=key, created_at__gte=Now() - KEY_LIFETIME)

    def key_expired(self) -> Self:
        return self.exclude(idempotency_key="").filter(created_at__lt=Now() - KEY_LIFETIME)

    def abandoned(self, window_seconds: float) -> Self:
        return self.active().filter(abandoned_for(window_seconds), stop_requested_at=None)

    def unsent(self, pause_seconds: float) -> Self:
        """Pending, and its last send is longer ago than a pause that doubles with every send (at most 64-fold)."""
        overdue = Q(sent_at__isnull=True)
        for count in range(1, 8):
            pause = timedelta(seconds=pause_seconds * 2 ** (count - 1))
            sends = Q(send_count=count) if count < 7 else Q(send_count__gte=count)
            overdue |= sends & Q(sent_at__lt=Now() - pause)
        return self.filter(overdue, status=Run.Status.PENDING)


class Run(models.Model):
    """One turn of an agent in one chat. Only `runs.lifecycle` changes a row."""

    class Status(models.TextChoices):
        PENDING = "pending"
        """Waits for a worker. A claim moves it on; a stop aborts it on the spot; the sweep sends it again."""
        RUNNING = "running"
        """Held by `worker` as `attempt`, alive while its heartbeat is young. If the worker dies, the sweep takes it."""
        SUCCEEDED = "succeeded"
        """Terminal: the model gave its answer; where a limit asked for it early, `error` says which."""
        FAILED = "failed"
        """Terminal: `error` says what went wrong, for people."""
        ABORTED = "aborted"
        """Terminal: somebody stopped it, or its workers were lost too often."""

    class EndReason(models.TextChoices):
        COMPLETED = "completed"
        STOPPED = "stopped"
        DISCONNECTED = "disconnected"
        SUPERSEDED = "superseded"
        BUDGET = "budget"
        TIMEOUT = "timeout"
        PROVIDER_ERROR = "provider_error"
        TOOL_ERROR = "tool_error"
        WORKER_LOST = "worker_lost"
        INTERNAL_ERROR = "internal_error"

    class Trigger(models.TextChoices):
        USER = "user"
        AUTOSTART = "autostart"
        SCHEDULE = "schedule"
        API = "api"
        CONTINUE = "continue"

    ACTIVE = (Status.PENDING, Status.RUNNING)
    TERMINAL = (Status.SUCCEEDED, Status.FAILED, Status.ABORTED)

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    workspace = models.ForeignKey(Workspace, models.CASCADE, related_name="+")
    chat = models.ForeignKey(Chat, models.CASCADE, related_name="runs")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    message = models.OneToOneField(Message, models.SET_NULL, null=True, related_name="run")
    role = models.ForeignKey(Role, models.SET_NULL, null=True, related_name="+")
    model = models.CharField(max_length=255)
    role_settings = models.JSONField(
        # Also in the database: while a deploy is under way, processes that do not know the column write runs.
        db_default=Value({}, models.JSONField()),
        help_text="What its role said when it began, see `runs.roles`.",
    )
    trigger = models.CharField(max_length=16, choices=Trigger)
    detached = models.BooleanField(default=True)
    attached_seen_at = models.DateTimeField(null=True, help_text="When the stream that owns it was known to be open.")

    status = models.CharField(max_length=16, choices=Status, default=Status.PENDING)
    end_reason = models.CharField(max_length=16, choices=EndReason, blank=True)
    error = models.TextField(blank=True, help_text="For people: no secrets, no stack.")
    step_count = models.IntegerField(default=0)

    attempt = models.IntegerField(default=1, help_text="The fence: raised whenever the run leaves its holder.")
    claim_token = models.UUIDField(null=True)
    lost_attempts = models.IntegerField(default=0, help_text="Attempts lost to crashes; hand-overs do not count.")
    worker = models.CharField(max_length=255, blank=True)

    stop_requested_at = models.DateTimeField(null=True)
    stop_requested_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    stop_source = models.CharField(max_length=16, blank=True)

    sent_at = models.DateTimeField(null=True)
    send_count = models.IntegerField(default=1)
    started_at = models.DateTimeField(null=True)
    heartbeat_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_at = models.DateTimeField(db_default=Now(), editable=False)

    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    cached_tokens = models.BigIntegerField(default=0)
    cost_usd = models.DecimalField(max_digits=14, decimal_places=8, default=Decimal(0))
    usage_estimated = models.BooleanField(default=False)

    # The tighter ones of request, role and installation when it began; null is no limit.
    max_steps = models.IntegerField()
    max_tokens = models.BigIntegerField(null=True)
    max_cost_usd = models.DecimalField(max_digits=14, decimal_places=8, null=True)
    max_seconds = models.FloatField(help_text="Of wall time since the first claim.")

    request_hash = models.CharField(max_length=64, blank=True, help_text="Of the body that chose this id or key.")
    # In the database too: while a deploy is under way, processes that do not know the column write runs.
    idempotency_key = models.CharField(max_length=255, blank=True, db_default="", default="")

    objects = RunQuerySet.as_manager()

    class Meta:
        permissions = [("stop_run", "Can stop a run")]
        constraints = [
            models.UniqueConstraint(
                fields=["chat"], condition=Q(status__in=["pending", "running"]), name="one_active_run_per_chat"
            ),
            models.CheckConstraint(
                condition=Q(status__in=["pending", "running", "succeeded", "failed", "aborted"]),
                name="run_status_is_known",
            ),
            models.UniqueConstraint(
                fields=["created_by", "idempotency_key"],
                condition=~Q(idempotency_key=""),
                name="one_run_per_idempotency_key",
            ),
            models.CheckConstraint(
                condition=Q(status__in=["pending", "running"], finished_at__isnull=True, end_reason="")
                | (Q(status__in=["succeeded", "failed", "aborted"], finished_at__isnull=False) & ~Q(end_reason="")),
                name="finished_exactly_when_terminal",
            ),
            models.CheckConstraint(
                condition=~Q(status="running") | Q(heartbeat_at__isnull=False), name="running_has_a_heartbeat"
            ),
        ]
        indexes = [
            # GET /api/chats/{chat}/runs, GET /api/chats/{chat}/run
            models.Index(fields=["chat", "-created_at"], name="runs_of_a_chat"),
            # GET /api/runs, and what a person used today (`runs.allowance`)
            models.Index(fields=["created_by", "-created_at"], name="runs_of_a_person"),
            # the sweep: stale runs, oldest heartbeat first
            models.Index(fields=["heartbeat_at"], condition=Q(status="running"), name="runs_by_heartbeat"),
            # the sweep: pending runs whose message may be lost
            models.Index(fields=["sent_at"], condition=Q(status="pending"), name="runs_by_send"),
            # the sweep: idempotency keys that have expired
            models.Index(fields=["created_at"], condition=~Q(idempotency_key=""), name="runs_by_age_of_key"),
            # how many runs a person has at work; the sweep: those whose person, or whose stream, is gone
            models.Index(
                fields=["created_by"],
                condition=Q(status__in=["pending", "running"]),
                name="active_runs_of_a_person",
            ),
            # the admin's list
            models.Index(fields=["-created_at"], name="runs_by_age"),
        ]

    def __str__(self) -> str:
        return f"run {self.id}"

    @property
    def is_terminal(self) -> bool:
        return self.status in Run.TERMINAL

    @property
    def usage(self) -> dict[str, Any]:
        """As the chunks of a stream carry it."""
        return {
            "inputTokens": self.input_tokens,
            "outputTokens": self.output_tokens,
            "costUsd": float(self.cost_usd),
            "estimated": self.usage_estimated,
        }

    @property
    def used(self) -> Usage:
        counts = self.input_tokens, self.output_tokens, self.cached_tokens
        return Usage(*counts, cost_usd=self.cost_usd, estimated=self.usage_estimated)

    def count(self, usage: Usage) -> None:
        """For who holds it, here only: the row is counted with what it was used for, by `runs.lifecycle`."""
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens
        self.cached_tokens += usage.cached_tokens
        self.cost_usd += usage.cost_usd
        self.usage_estimated |= usage.estimated


class Step(models.Model):
    """One finished model call: what it said and the tools it asked for. Written once, before any of them starts."""

    run = models.ForeignKey(Run, models.CASCADE, related_name="steps")
    index = models.IntegerField()
    attempt = models.IntegerField()
    parts = models.JSONField()
    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    cached_tokens = models.BigIntegerField(default=0)
    cost_usd = models.DecimalField(max_digits=14, decimal_places=8, default=Decimal(0))
    usage_estimated = models.BooleanField(default=False)
    model = models.CharField(max_length=255)
    finish_reason = models.CharField(max_length=32)
    echo = models.JSONField(null=True, help_text="What its provider wants to read again: `agents.steps.StepEcho`.")
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.UniqueConstraint(fields=["run", "index"], name="one_step_per_index")]
        ordering = ["run", "index"]

    def __str__(self) -> str:
        return f"step {self.index} of run {self.run_id}"

    @property
    def used(self) -> Usage:
        counts = self.input_tokens, self.output_tokens, self.cached_tokens
        return Usage(*counts, cost_usd=self.cost_usd, estimated=self.usage_estimated)


class ToolCall(models.Model):
    """One tool call of a step: recorded with the step before it runs, its outcome as it ends."""

    class State(models.TextChoices):
        CALLED = "called"
        """Outcome unknown: about to run, running, or lost with its worker."""
        DONE = "done"
        FAILED = "failed"

    run = models.ForeignKey(Run, models.CASCADE, related_name="tool_calls")
    step = models.ForeignKey(Step, models.CASCADE, related_name="calls")
    call_id = models.CharField(max_length=64)
    name = models.CharField(max_length=64)
    input = models.JSONField(null=True)
    repeat = models.CharField(max_length=8)
    state = models.CharField(max_length=8, choices=State, default=State.CALLED)
    output = models.JSONField(null=True)
    error = models.TextField(blank=True)
    started_at = models.DateTimeField(db_default=Now())
    finished_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["run", "call_id"], name="one_call_per_id")]
        ordering = ["step", "pk"]

    def __str__(self) -> str:
        return f"{self.name} ({self.call_id})"


class Summary(models.Model):
    """What stands for the beginning of a chat in its model's history: all that was said from `first` to `last`.

    It holds as long as these are the same messages: once one was replaced, or deleted, it is not read any more.
    """

    id = models.UUIDField(primary_key=True, editable=False)
    chat = models.ForeignKey(Chat, models.CASCADE, related_name="summaries")
    run = models.ForeignKey(Run, models.SET_NULL, null=True, related_name="+", help_text="It wrote this.")
    first = models.ForeignKey(Message, models.CASCADE, related_name="+")
    last = models.ForeignKey(Message, models.CASCADE, related_name="+")
    message_count = models.IntegerField()
    text = models.TextField()
    model = models.CharField(max_length=255)
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        constraints = [
            # and its index: the summary of a chat that reaches furthest
            models.UniqueConstraint(fields=["chat", "last"], name="one_summary_per_range"),
        ]

    def __str__(self) -> str:
        return f"summary of chat {self.chat_id} to message {self.last_id}"


class EarlyStopQuerySet(models.QuerySet["EarlyStop"]):
    def fresh(self) -> Self:
        return self.filter(created_at__gte=Now() - EARLY_STOP_LIFETIME)

    def expired(self) -> Self:
        return self.filter(created_at__lt=Now() - EARLY_STOP_LIFETIME)


class EarlyStop(models.Model):
    """A stop that came before the run it is for: somebody named an id that no run had."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    # No foreign key: that there is no such run is the point.
    run_id = models.UUIDField()
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    objects = EarlyStopQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "run_id"], name="one_early_stop_per_run")]
        indexes = [
            # the sweep: those that have expired
            models.Index(fields=["created_at"], name="early_stops_by_age"),
        ]

    def __str__(self) -> str:
        return f"early stop of run {self.run_id}"
