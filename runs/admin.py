"""Runs in the admin site: everything to look at, one thing to do, which is to stop them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.contrib import admin, messages
from django.db.models import ExpressionWrapper, F, QuerySet
from django.db.models.fields import DurationField
from django.db.models.functions import Now
from django.http import HttpRequest

from agents import admin as agents_admin
from agents.models import Role
from runs import stop
from runs.models import Run, Step, Summary, ToolCall
from runs.tools import TOOLS


class ReadOnly:
    """A row tells what happened; only `runs.lifecycle` writes one."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class StepInline(ReadOnly, admin.TabularInline):
    model = Step
    fields = ("index", "attempt", "model", "finish_reason", "input_tokens", "output_tokens", "finished_at")
    readonly_fields = fields
    extra = 0


class ToolCallInline(ReadOnly, admin.TabularInline):
    model = ToolCall
    fields = ("call_id", "name", "state", "repeat", "started_at", "finished_at")
    readonly_fields = fields
    extra = 0


class RoleForm(agents_admin.RoleForm):
    known_tools = TOOLS


@admin.register(Role)
class RoleAdmin(agents_admin.RoleAdmin):
    form = RoleForm


@admin.register(Run)
class RunAdmin(ReadOnly, admin.ModelAdmin):
    list_display = (
        "short_id",
        "status",
        "heartbeat_age",
        "worker",
        "chat",
        "created_by",
        "attempt",
        "end_reason",
        "created_at",
    )
    list_display_links = ("short_id",)
    list_filter = ("status", "end_reason", "trigger", "workspace")
    list_select_related = ("chat", "created_by")
    search_fields = ("=id", "=chat__id", "worker", "created_by__username")
    ordering = ("-created_at",)
    inlines = (StepInline, ToolCallInline)
    actions = ("stop_selected",)
    list_per_page = 50
    show_full_result_count = False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Run]:
        age = ExpressionWrapper(Now() - F("heartbeat_at"), output_field=DurationField())
        runs: QuerySet[Run] = super().get_queryset(request)
        return runs.annotate(silence=age)

    @admin.display(description="run", ordering="id")
    def short_id(self, run: Run) -> str:
        """The random end of the id: the beginning is a time."""
        return run.pk.hex[-12:]

    @admin.display(description="heartbeat", ordering="heartbeat_at")
    def heartbeat_age(self, run: Any) -> str:
        """How long ago, by the database's clock; of a run that is over it says nothing."""
        if run.status != Run.Status.RUNNING or run.silence is None:
            return "-"
        return f"{run.silence.total_seconds():.0f} s ago"

    def has_stop_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("runs.stop_run")

    @admin.action(description="Stop selected runs", permissions=["stop"])
    def stop_selected(self, request: HttpRequest, queryset: QuerySet[Run]) -> None:
        active: Sequence[Run] = list(queryset.filter(status__in=Run.ACTIVE))
        stopped = 0
        for run in active:
            answer = stop.request_stop(run.pk, request.user.pk, "admin")
            if answer and answer.took_effect:
                stopped += 1
                self.log_change(request, run, "Asked for a stop.")
        over = queryset.count() - len(active)
        self.message_user(
            request,
            f"{stopped} asked to stop, {len(active) - stopped} were asked already, {over} had ended.",
            messages.SUCCESS if stopped else messages.WARNING,
        )


@admin.register(Summary)
class SummaryAdmin(ReadOnly, admin.ModelAdmin):
    list_display = ("created_at", "chat", "message_count", "model", "run")
    list_select_related = ("chat", "run")
    search_fields = ("=chat__id", "=run__id")
    ordering = ("-created_at",)
    list_per_page = 50
    show_full_result_count = False
