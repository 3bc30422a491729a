"""Roles: what an agent is told, which model it is and what it may use, as somebody set it up in the admin site."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Self

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Case, IntegerField, Q, Value, When
from django.db.models.functions import Now
from uuid_utils.compat import uuid7

from agents.budget import Limits
from agents.llm import ModelSettings

if TYPE_CHECKING:
    from uuid import UUID

MOST_STEPS = 1_000_000
MOST_TOKENS = 10_000_000_000
MOST_SECONDS = 31_536_000  # a year
MOST_DOLLARS = 100_000
LEAST_DOLLARS = 0.000001
LEAST_SECONDS = 0.001


def is_allowed_model(name: str) -> bool:
    """Whether a role or a request may name this model: one of the patterns of AGENT_MODELS fits."""
    return any(fnmatchcase(name, pattern) for pattern in settings.AGENT_MODELS)


class RoleQuerySet(models.QuerySet["Role"]):
    def usable_in(self, workspaces: Iterable[Any]) -> Self:
        """Those of these workspaces and the global ones. A queryset will do."""
        return self.filter(Q(workspace=None) | Q(workspace__in=workspaces))

    def default_in(self, workspace: UUID) -> Role | None:
        """The workspace's own default, else the global one, else none."""
        own_first = Case(When(workspace=None, then=Value(1)), default=Value(0), output_field=IntegerField())
        return self.usable_in([workspace]).filter(is_default=True).order_by(own_first).first()


class Role(models.Model):
    """A run takes down what its role says when it begins: changing a role changes no run that is live."""

    class Effort(models.TextChoices):
        MINIMAL = "minimal"
        LOW = "low"
        MEDIUM = "medium"
        HIGH = "high"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    # By name: agents and chats know nothing of each other's code. The database may well know that the rows belong
    # together, and forgets a workspace's roles with it.
    workspace = models.ForeignKey(
        "chat.Workspace",
        models.CASCADE,
        null=True,
        blank=True,
        related_name="roles",
        help_text="Where it may be used; empty: everywhere.",
    )
    name = models.CharField(max_length=100)
    description = models.TextField(blank=True, help_text="For whoever chooses a role.")
    is_default = models.BooleanField(
        default=False, help_text="Taken where neither request nor chat name a role; a workspace's own goes first."
    )
    instructions = models.TextField(blank=True, help_text="What the model is told first; empty: the usual.")
    tools = ArrayField(models.CharField(max_length=64), default=list, blank=True, help_text="What it may use.")

    model = models.CharField(
        max_length=255, blank=True, help_text="One that AGENT_MODELS allows; empty: the default model."
    )
    fallbacks = ArrayField(
        models.CharField(max_length=255),
        default=list,
        blank=True,
        help_text="Models to turn to while the first is unavailable, in this order, with commas between them.",
    )
    temperature = models.FloatField(null=True, blank=True, validators=[MinValueValidator(0), MaxValueValidator(2)])
    top_p = models.FloatField(null=True, blank=True, validators=[MinValueValidator(0), MaxValueValidator(1)])
    max_output_tokens = models.IntegerField(
        null=True, blank=True, validators=[MinValueValidator(1)], help_text="Of one model call."
    )
    reasoning_effort = models.CharField(max_length=16, blank=True, choices=Effort)
    seed = models.BigIntegerField(null=True, blank=True)

    # The names and meanings of a run's limits; the installation's and the request's may be tighter.
    max_steps = models.IntegerField(
        null=True, blank=True, validators=[MinValueValidator(1), MaxValueValidator(MOST_STEPS)]
    )
    max_tokens = models.BigIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1), MaxValueValidator(MOST_TOKENS)]
    )
    max_cost_usd = models.DecimalField(
        null=True,
        blank=True,
        max_digits=14,
        decimal_places=8,
        validators=[MinValueValidator(LEAST_DOLLARS), MaxValueValidator(MOST_DOLLARS)],
    )
    max_seconds = models.FloatField(
        null=True, blank=True, validators=[MinValueValidator(LEAST_SECONDS), MaxValueValidator(MOST_SECONDS)]
    )
    max_stall_seconds = models.FloatField(
        null=True,
        blank=True,
        validators=[MinValueValidator(LEAST_SECONDS), MaxValueValidator(MOST_SECONDS)],
        help_text="How long its model may stay silent.",
    )
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    objects = RoleQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["workspace"],
                condition=Q(is_default=True),
                name="one_default_role_per_workspace",
                violation_error_message="This workspace has a default role already.",
            ),
            # Nulls are all different: the one above does not hold for global roles.
            models.UniqueConstraint(
                fields=["is_default"],
                condition=Q(is_default=True, workspace=None),
                name="one_global_default_role",
                violation_error_message="There is a global default role already.",
            ),
        ]
        # GET /api/roles reads all there are in a person's workspaces: too few for an index of their own.

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        if self.model and not is_allowed_model(self.model):
            raise ValidationError({"model": _refusal(self.model)})
        unknown = [name for name in self.fallbacks or () if not is_allowed_model(name)]
        if unknown:
            raise ValidationError({"fallbacks": [_refusal(name) for name in unknown]})

    @property
    def limits(self) -> Limits:
        return Limits(self.max_steps, self.max_tokens, self.max_cost_usd, self.max_seconds, self.max_stall_seconds)

    @property
    def model_settings(self) -> ModelSettings:
        return ModelSettings(
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_output_tokens,
            reasoning_effort=self.reasoning_effort or None,
            seed=self.seed,
        )


def _refusal(model: str) -> str:
    return f"{model[:100]} is not among the models that AGENT_MODELS allows: {', '.join(settings.AGENT_MODELS)}."
