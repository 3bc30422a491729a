"""Workspaces, who belongs to them, and tokens, in the admin site. What people say to each other is theirs."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.http import HttpRequest
from knox.models import get_digest_token
from knox.settings import CONSTANTS

from chat.models import Membership, Token, Workspace


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


@admin.register(Token)
class TokenAdmin(admin.ModelAdmin):
    """Made and revoked, never changed. The secret is shown to whoever makes it, once; the digest to nobody."""

    list_display = ("name", "user", "token_key", "created", "expiry", "last_used_at")
    list_select_related = ("user",)
    list_filter = ("expiry",)
    search_fields = ("name", "token_key", "user__username")
    ordering = ("-created",)
    autocomplete_fields = ("user",)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return ("name", "user", "expiry") if obj is None else self.list_display

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Token, form: forms.ModelForm[Token], change: bool) -> None:
        obj.digest, secret = get_digest_token()
        obj.token_key = secret[: CONSTANTS.TOKEN_KEY_LENGTH]
        super().save_model(request, obj, form, change)
        messages.success(request, f"The token, which is not shown again: {secret}")
