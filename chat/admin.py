"""Workspaces and who belongs to them, in the admin site. What people say to each other is theirs."""

from django.contrib import admin

from chat.models import Membership, Workspace


class MembershipInline(admin.TabularInline):
    model = Membership
    extra = 1
    autocomplete_fields = ("user",)


@admin.register(Workspace)
class WorkspaceAdmin(admin.ModelAdmin):
    list_display = ("name", "ai_chat", "autonomous_runs", "created_at")
    list_filter = ("ai_chat", "autonomous_runs")
    search_fields = ("name",)
    inlines = (MembershipInline,)
