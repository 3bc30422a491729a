"""What a run begins with: what its role says and the tighter limits, taken down once; no later change reaches it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self
from uuid import UUID

from django.conf import settings

from agents.budget import Limits
from agents.llm import ModelSettings
from agents.models import Role, is_allowed_model
from agents.tools import Tool
from chat.models import Chat
from runs.errors import ModelNotAllowed, RoleNotFound
from runs.models import Run
from runs.tools import INSTRUCTIONS, TOOLS


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request says about the agent; None is left to the role."""

    role: UUID | None = None
    model: str | None = None
    limits: Limits = field(default_factory=Limits)

    def as_json(self) -> list[Any]:
        return [self.role and str(self.role), self.model, {name: str(v) for name, v in asdict(self.limits).items()}]


@dataclass(frozen=True, slots=True)
class RoleSettings:
    """`Run.role_settings` as a value; a row without them is of a run that began before there were roles.

    Without a role, `tools` is None: whatever the worker offers.
    """

    instructions: str = INSTRUCTIONS
    tools: list[str] | None = None
    fallbacks: list[str] = field(default_factory=list)
    model_settings: ModelSettings = field(default_factory=ModelSettings)
    stall: float | None = None

    @classmethod
    def of(cls, run: Run) -> Self:
        stored = dict(run.role_settings)
        return cls(**stored | {"model_settings": ModelSettings(**stored.get("model_settings", {}))})

    def usable_tools(self) -> dict[str, Tool]:
        """Those that there still are."""
        return {name: tool for name, tool in TOOLS.items() if self.tools is None or name in self.tools}

    @property
    def stall_seconds(self) -> float:
        return float(settings.MODEL_STALL_SECONDS if self.stall is None else self.stall)


def run_fields(chat: Chat, wish: Wish) -> dict[str, Any]:
    """The columns of a new run that say how its agent is. Raises RoleNotFound, ModelNotAllowed."""
    role = _role(chat, wish.role)
    limits = wish.limits.tightened(role.limits if role else Limits()).tightened(_installations())
    said = RoleSettings(
        instructions=(role.instructions if role else "") or INSTRUCTIONS,
        tools=role.tools if role else None,
        fallbacks=[name for name in role.fallbacks if is_allowed_model(name)] if role else [],
        model_settings=role.model_settings if role else ModelSettings(),
        stall=limits.stall,
    )
    return {
        "role": role,
        "model": _model(role, wish.model),
        "role_settings": asdict(said),
        "max_steps": limits.steps,
        "max_tokens": limits.tokens,
        "max_cost_usd": limits.cost_usd,
        "max_seconds": limits.seconds,
    }


def as_in(run: Run, wish: Wish) -> Wish:
    """The wish, with the role and the model of that run where it names none and they can still be had."""
    if wish.role is not None:
        return wish
    usable = run.role_id and Role.objects.usable_in([run.workspace_id]).filter(pk=run.role_id).exists()
    model = run.model if is_allowed_model(run.model) else None
    return replace(wish, role=run.role_id if usable else None, model=wish.model or model)


def limits_of(run: Run) -> Limits:
    return Limits(run.max_steps, run.max_tokens, run.max_cost_usd, run.max_seconds)


def _role(chat: Chat, wanted: UUID | None) -> Role | None:
    """None: the settings are all there is."""
    usable = Role.objects.usable_in([chat.workspace_id])
    if wanted is not None:
        found = usable.filter(pk=wanted).first()
        if found is None:
            raise RoleNotFound
        return found
    # A chat may hold on to a role that was moved to another workspace since.
    own = usable.filter(pk=chat.role_id).first() if chat.role_id else None
    return own or Role.objects.default_in(chat.workspace_id)


def _model(role: Role | None, wanted: str | None) -> str:
    if wanted is not None:
        if not is_allowed_model(wanted):
            raise ModelNotAllowed("model")
        return wanted
    if role is None or not role.model:
        return str(settings.AGENT_MODEL)
    # It was allowed when the role was saved.
    if not is_allowed_model(role.model):
        raise ModelNotAllowed("role")
    return role.model


def _installations() -> Limits:
    return Limits(
        steps=settings.RUN_MAX_STEPS,
        tokens=settings.RUN_MAX_TOKENS or None,
        cost_usd=settings.RUN_MAX_COST_USD or None,
        seconds=settings.RUN_TIMEOUT_SECONDS,
        stall=settings.MODEL_STALL_SECONDS,
    )
