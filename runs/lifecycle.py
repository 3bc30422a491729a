"""Every change of a run but its heartbeats (`runs.heartbeat`), each one conditional UPDATE, and nothing else.

            claim                complete
 pending ──────────> running ──────────────> succeeded
   │  ^                │ │────── fail ─────> failed
   │  └─ hand_over, ───┘ └────── abort ────> aborted
   │     rescue
   └── request_stop before the claim ──────> aborted

Contenders (`claim`, `rescue`, `request_stop`) get None when they lose: that is ordinary. A holder whose write matches
nothing has lost its lease and gets LeaseLost. Every verb may be repeated with the same arguments, after a commit whose
answer was lost: the repeat finds its own work and changes nothing.

Transactions that write more than the run lock its chat first, so that no two of them ever wait for each other. All
times are the database's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Case, Exists, F, Q, Value, When
from django.db.models.functions import Coalesce, Now

from agents.compaction import Summarised
from agents.llm import Usage
from agents.steps import ModelStep, Outcome
from chat.models import Chat, Message
from runs import feed, journal
from runs.ending import Ending, ending_of, stopped
from runs.errors import LeaseLost
from runs.models import Run, RunQuerySet, Step, Summary, ToolCall
from runs.transcript import Part

Held = tuple[UUID, int]
"""A run, and the attempt that somebody is at."""

RAISED = F("attempt") + 1
NOTHING = Usage()
ANY = Q()

_LEAVES_ITS_HOLDER: dict[str, Any] = {
    "status": Run.Status.PENDING,
    "attempt": RAISED,
    "claim_token": None,
    "worker": "",
    "heartbeat_at": None,
    "sent_at": Now(),
    "send_count": 1,
    "updated_at": Now(),
}


def claim(run_id: UUID, attempt: int, token: UUID, worker: str) -> Run | None:
    """pending -> running. None: another attempt, another worker, or no such run."""
    free = Q(status=Run.Status.PENDING) | Q(status=Run.Status.RUNNING, claim_token=token)
    claimed = Run.objects.filter(free, pk=run_id, attempt=attempt).update(
        status=Run.Status.RUNNING,
        claim_token=token,
        worker=worker[:255],
        started_at=Coalesce("started_at", Now()),
        heartbeat_at=Now(),
        updated_at=Now(),
    )
    if claimed:
        feed.run_changed(run_id)
    # The stop request is read after the claim: from here on it is the holder's business.
    return Run.objects.held(run_id, attempt).filter(claim_token=token).first() if claimed else None


@transaction.atomic
def record_step(run_id: UUID, attempt: int, step: ModelStep) -> None:
    """The step and its calls, before any of them starts. Raises LeaseLost."""
    usage = step.usage
    counted = (
        Run.objects.held(run_id, attempt)
        .filter(step_count=step.index)
        .update(
            step_count=step.index + 1,
            **_counted(usage),
            updated_at=Now(),
        )
    )
    if not counted:
        if Run.objects.held(run_id, attempt).filter(steps__index=step.index, steps__attempt=attempt).exists():
            return
        raise LeaseLost
    row = Step.objects.create(
        run_id=run_id,
        index=step.index,
        attempt=attempt,
        parts=step.parts,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_tokens=usage.cached_tokens,
        cost_usd=usage.cost_usd,
        usage_estimated=usage.estimated,
        model=step.model[:255],
        finish_reason=step.finish_reason,
        echo=asdict(step.echo) if step.echo else None,
        started_at=step.started_at,
    )
    feed.run_changed(run_id)
    ToolCall.objects.bulk_create(
        ToolCall(run_id=run_id, step=row, call_id=call.id, name=call.name, input=call.input, repeat=call.repeat)
        for call in step.calls
    )


@transaction.atomic
def record_outcome(run_id: UUID, attempt: int, outcome: Outcome) -> None:
    """How a call ended; the first outcome of a call stays. Raises LeaseLost."""
    if not Run.objects.held(run_id, attempt).update(updated_at=Now()):
        raise LeaseLost
    failed = outcome.error is not None
    ToolCall.objects.filter(run_id=run_id, call_id=outcome.call_id, state=ToolCall.State.CALLED).update(
        state=ToolCall.State.FAILED if failed else ToolCall.State.DONE,
        output=outcome.output,
        error=outcome.error or "",
        finished_at=Now(),
    )


@transaction.atomic
def record_summary(run_id: UUID, attempt: int, summary_id: UUID, summary: Summarised) -> None:
    """A summary of the run's chat, and what it used. `summary_id` is the caller's choice, the same at a repeat. Raises
    LeaseLost."""
    counted = Run.objects.held(run_id, attempt).exclude(Exists(Summary.objects.filter(pk=summary_id)))
    if not counted.update(**_counted(summary.usage), updated_at=Now()):
        if Run.objects.held(run_id, attempt).exists():
            return
        raise LeaseLost
    last = Message.objects.current().get(pk=summary.last)
    covered = Message.objects.current().up_to(last)
    # One that was written before some of them were deleted.
    Summary.objects.filter(chat=last.chat_id, last=last).delete()
    Summary.objects.create(
        id=summary_id,
        chat_id=last.chat_id,
        run_id=run_id,
        first=covered.order_by("created_at", "pk")[0],
        last=last,
        message_count=covered.count(),
        text=summary.text,
        model=summary.model[:255],
    )


@transaction.atomic
def settle(run: Run, ending: Ending, parts: list[Part], metadata: dict[str, Any], interrupted: Usage = NOTHING) -> Run:
    """The terminal status and the settled message, once. `run` says which attempt holds it, `interrupted` what its
    unrecorded step used. Raises LeaseLost."""
    _lock_chat(run.chat_id)
    settled = Run.objects.held(run.pk, run.attempt).update(
        status=ending.status,
        end_reason=ending.end_reason,
        error=ending.error,
        **_counted(interrupted),
        finished_at=Now(),
        updated_at=Now(),
    )
    if not settled:
        found = Run.objects.filter(pk=run.pk, attempt=run.attempt, status__in=Run.TERMINAL).first()
        if found is None or ending_of(found) != ending:
            raise LeaseLost
        return found
    _write_message(run, ending, parts, metadata)
    feed.run_changed(run.pk)
    return Run.objects.get(pk=run.pk)


def hand_over(run_id: UUID, attempt: int, interrupted: Usage = NOTHING) -> bool:
    """running -> pending, for the next attempt: the holder gives it back, which costs none of its attempts.
    `interrupted` is what its unrecorded step used, which the next attempt begins again.

    False: somebody asked for a stop, so the holder has to settle it. Raises LeaseLost.
    """
    free = Run.objects.held(run_id, attempt).filter(stop_requested_at=None)
    if free.update(**_LEAVES_ITS_HOLDER, **_counted(interrupted)):
        feed.run_changed(run_id)
        return True
    row = Run.objects.filter(pk=run_id).first()
    if row is None or row.attempt > attempt + 1 or row.is_terminal:
        raise LeaseLost
    # The next attempt: a repeat of this, or a rescue, which is as good.
    return row.attempt == attempt + 1


def renew(run_id: UUID, attempt: int) -> None:
    """One run's heartbeat out of turn, for a holder that has to be sure. Raises LeaseLost."""
    if not Run.objects.held(run_id, attempt).update(heartbeat_at=Now()):
        raise LeaseLost


@dataclass(frozen=True, slots=True)
class StopAnswer:
    """`took_effect`: this very call did it. `run` is the row as it is now."""

    took_effect: bool
    run: Run


@transaction.atomic
def request_stop(run_id: UUID, user_id: int | None, source: str, only: Q = ANY) -> StopAnswer | None:
    """Asks a running run to stop, aborts a pending one on the spot: one UPDATE, so that no claim falls in between. It
    takes no effect on a run that `only` does not hold for.

    None: there is no such run (any more).
    """
    chat_id = Run.objects.filter(pk=run_id).values_list("chat_id", flat=True).first()
    if chat_id is None:
        return None
    _lock_chat(chat_id)
    pending = Q(status=Run.Status.PENDING)
    took_effect = (
        Run.objects.active()
        .filter(only, pk=run_id, stop_requested_at=None)
        .update(
            stop_requested_at=Now(),
            stop_requested_by=user_id,
            stop_source=source,
            end_reason=Case(When(pending, then=Value(stopped(source).end_reason)), default=F("end_reason")),
            finished_at=Case(When(pending, then=Now()), default=F("finished_at")),
            # Ended by somebody who does not hold it.
            attempt=Case(When(pending, then=RAISED), default=F("attempt")),
            status=Case(When(pending, then=Value(Run.Status.ABORTED)), default=F("status")),
            updated_at=Now(),
        )
    )
    run = Run.objects.filter(pk=run_id).first()
    if run is None:
        return None
    if took_effect:
        feed.run_changed(run_id)
    if took_effect and run.is_terminal:
        closed = journal.closed(run, journal.transcript_of(run, journal.recorded_steps(run.pk)))
        _write_message(run, ending_of(run), closed.parts, closed.metadata)
    return StopAnswer(bool(took_effect), run)


@transaction.atomic
def rescue(candidates: RunQuerySet, most: int) -> list[Held]:
    """Of these runs, whose worker is thought dead, the first `most` go to their next attempt: two statements in all.

    Answers (run id, new attempt). Leaves alone what somebody else has locked, and runs that were asked to stop: those
    have to be ended, see `take_over`.
    """
    found = list(
        candidates.filter(status=Run.Status.RUNNING, stop_requested_at=None)
        .order_by("heartbeat_at")
        .select_for_update(skip_locked=True, no_key=True)
        .values_list("pk", "attempt")[:most]
    )
    Run.objects.filter(pk__in=[run_id for run_id, _ in found]).update(
        **_LEAVES_ITS_HOLDER, lost_attempts=F("lost_attempts") + 1
    )
    feed.run_changed(*(run_id for run_id, _ in found))
    return [(run_id, attempt + 1) for run_id, attempt in found]


def take_over(run: Run, worker: str) -> Run | None:
    """A rescue whose new attempt only settles: `worker` holds the run now. None: it is not any more as it was seen."""
    seen = Run.objects.held(run.pk, run.attempt).filter(heartbeat_at=run.heartbeat_at)
    taken = seen.update(
        attempt=RAISED,
        claim_token=None,
        worker=worker[:255],
        heartbeat_at=Now(),
        lost_attempts=F("lost_attempts") + 1,
        updated_at=Now(),
    )
    return Run.objects.held(run.pk, run.attempt + 1).first() if taken else None


@transaction.atomic
def send_again(candidates: RunQuerySet, most: int) -> list[Held]:
    """Notes one more send of these pending runs, longest unsent first, and answers (run id, attempt) of each."""
    found = list(
        candidates.filter(status=Run.Status.PENDING)
        .order_by(F("sent_at").asc(nulls_first=True))
        .select_for_update(skip_locked=True, no_key=True)
        .values_list("pk", "attempt")[:most]
    )
    Run.objects.filter(pk__in=[run_id for run_id, _ in found]).update(
        sent_at=Now(), send_count=F("send_count") + 1, updated_at=Now()
    )
    return found


def note_unsent(held: Sequence[Held]) -> None:
    """The broker did not take these messages: the next sweep sends them again."""
    attempts = dict(held)
    pending = Run.objects.filter(pk__in=attempts, attempt__in=set(attempts.values()), status=Run.Status.PENDING)
    pending.update(sent_at=None, send_count=0)


def detach(run_ids: Iterable[UUID]) -> int:
    """Attached runs become detached; how many did."""
    return Run.objects.active().filter(pk__in=run_ids, detached=False).update(detached=True, updated_at=Now())


def forget_keys(candidates: RunQuerySet) -> int:
    """Of these runs, those with an idempotency key that has expired lose it; how many did."""
    return candidates.key_expired().update(idempotency_key="", updated_at=Now())


def _counted(usage: Usage) -> dict[str, Any]:
    """What else is written by a statement that says that this was used."""
    return {
        "input_tokens": F("input_tokens") + usage.input_tokens,
        "output_tokens": F("output_tokens") + usage.output_tokens,
        "cached_tokens": F("cached_tokens") + usage.cached_tokens,
        "cost_usd": F("cost_usd") + usage.cost_usd,
        "usage_estimated": Q(usage_estimated=True) | Q(Value(usage.estimated)),
    }


def _lock_chat(chat_id: UUID) -> None:
    # NO KEY: what refers to the chat by foreign key goes on being written.
    Chat.objects.select_for_update(no_key=True).filter(pk=chat_id).values_list("pk").first()


def _write_message(run: Run, ending: Ending, parts: list[Part], metadata: dict[str, Any]) -> None:
    Message.objects.filter(run=run.pk, status=Message.Status.STREAMING).update(
        parts=parts, metadata=metadata, status=ending.message_status, updated_at=Now()
    )
    Chat.objects.filter(pk=run.chat_id).update(updated_at=Now())
