"""What a person may still use today in a workspace.

Counted from the runs themselves, which carry what they used so far while they are live: one range of an index there is
for GET /api/runs, and no counter that could drift from it. A run counts on the day it began.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db.models import F, Sum

from agents.budget import counted, dollars
from chat.models import Workspace
from runs.models import Run


def reached_today(workspace: Workspace, user_id: Any) -> str:
    """The limit of the day that is used up, in words; empty where none is."""
    if workspace.daily_tokens is None and workspace.daily_cost_usd is None:
        return ""
    used = Run.objects.filter(created_by=user_id, workspace=workspace, created_at__gte=_today()).aggregate(
        tokens=Sum(F("input_tokens") + F("output_tokens"), default=0), cost=Sum("cost_usd", default=Decimal(0))
    )
    if workspace.daily_tokens is not None and used["tokens"] >= workspace.daily_tokens:
        return _used_up(counted(workspace.daily_tokens, "token"))
    if workspace.daily_cost_usd is not None and used["cost"] >= workspace.daily_cost_usd:
        return _used_up(dollars(workspace.daily_cost_usd))
    return ""


def seconds_of_today_left() -> int:
    return int((_today() + timedelta(days=1) - datetime.now(UTC)).total_seconds()) + 1


def _today() -> datetime:
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _used_up(limit: str) -> str:
    return f"Your limit of {limit} a day in this workspace is used up. It begins anew at midnight UTC."
