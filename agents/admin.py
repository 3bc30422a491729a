"""Roles in the admin site. Which tools there are knows who runs the agents: see `runs.admin`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django import forms
from django.contrib import admin

_LIMITS = ("max_steps", "max_tokens", "max_cost_usd", "max_seconds", "max_stall_seconds")


class RoleForm(forms.ModelForm):
    """Refuses tools that there are not, by name."""

    known_tools: Iterable[str] = ()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        names = list(self.known_tools)
        self.fields["tools"] = forms.MultipleChoiceField(
            choices=[(name, name) for name in names],
            initial=names,
            required=False,
            widget=forms.CheckboxSelectMultiple,
            help_text="None: it only talks.",
            error_messages={"invalid_choice": "There is no tool named %(value)s."},
        )


class RoleAdmin(admin.ModelAdmin):
    """A subclass says in its form which tools there are."""

    form = RoleForm
    list_display = ("name", "workspace", "model", "is_default", "created_at")
    list_filter = ("workspace", "is_default")
    list_select_related = ("workspace",)
    search_fields = ("name", "description")
    fieldsets = (
        (None, {"fields": ("name", "description", "workspace", "is_default", "instructions", "tools")}),
        (
            "Model",
            {
                "fields": (
                    "model",
                    "fallbacks",
                    "temperature",
                    "top_p",
                    "max_output_tokens",
                    "reasoning_effort",
                    "seed",
                )
            },
        ),
        ("Limits of a run", {"fields": _LIMITS, "description": "Empty: the installation's."}),
    )
