"""What a run may use, what it has used, and which limit ends it. Knows neither rows nor clocks but its loop's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any

from agents.llm import Usage
from agents.steps import RecordedStep

# When less than this is left of a run's time, a step that begins is its last: this part of the limit, at most so long.
TIME_TO_ANSWER = 0.2
LONGEST_TIME_TO_ANSWER = 30.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one run; None is no limit. `seconds` of wall time since its first claim, `stall` of a model's silence."""

    steps: int | None = None
    tokens: int | None = None
    cost_usd: Decimal | None = None
    seconds: float | None = None
    stall: float | None = None

    def tightened(self, other: Limits) -> Limits:
        """The smaller one of each."""

        def tighter(name: str) -> Any:
            return min((v for v in (getattr(self, name), getattr(other, name)) if v is not None), default=None)

        return Limits(**{limit.name: tighter(limit.name) for limit in fields(Limits)})


@dataclass(frozen=True, slots=True)
class Reached:
    """The limit that ended a run. `text` names it, for people; `answered` says whether the model could still answer
    with what it had."""

    text: str
    is_time: bool = False
    answered: bool = True


@dataclass(slots=True)
class Budget:
    """The limits of a run and what counts against them. The consumer of the loop may change it between two steps.

    `tokens_before` and `cost_before` were used by this run but by none of its recorded steps; `unrecorded` was used by
    summaries that came to nothing, which the run's row does not know of yet; `deadline` is by the clock of the event
    loop; `outside` names a limit beyond the run that is reached, such as that of a person's day.
    """

    limits: Limits = field(default_factory=Limits)
    tokens_before: int = 0
    cost_before: Decimal = Decimal(0)
    unrecorded: Usage = field(default_factory=Usage)
    deadline: float | None = None
    outside: str = ""

    def reached(self, steps: Sequence[RecordedStep], now: float | None = None) -> Reached | None:
        """What forbids that any but a last step follows these. Without `now` time does not count, and `outside` forbids
        a first step altogether: that is not asked here."""
        limits = self.limits
        tokens = self.tokens_before + self.unrecorded.tokens + sum(step.usage.tokens for step in steps)
        cost = sum((step.usage.cost_usd for step in steps), self.cost_before + self.unrecorded.cost_usd)
        if limits.steps is not None and len(steps) + 1 >= limits.steps:
            return Reached(f"The run reached its limit of {counted(limits.steps, 'step')}.")
        if limits.tokens is not None and tokens >= limits.tokens:
            return Reached(f"The run reached its limit of {counted(limits.tokens, 'token')}.")
        if limits.cost_usd is not None and cost >= limits.cost_usd:
            return Reached(f"The run reached its limit of {dollars(limits.cost_usd)}.")
        if self.outside and steps:
            return Reached(self.outside)
        if now is not None and self.deadline is not None and limits.seconds is not None:
            spare = min(limits.seconds * TIME_TO_ANSWER, LONGEST_TIME_TO_ANSWER)
            if now >= self.deadline - spare:
                return out_of_time(limits.seconds, answered=True)
        return None


def out_of_time(seconds: float, *, answered: bool) -> Reached:
    return Reached(f"The run reached its time limit of {counted(seconds, 'second')}.", True, answered)


def counted(number: float, noun: str) -> str:
    """In words: "1 step", "1,500 tokens"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}".replace(".0 ", " ")


def dollars(amount: Decimal) -> str:
    """Without the zeros that a column of money carries."""
    return f"${amount.normalize():f}"
