"""Begins a turn: one transaction for message, run and answer; the Celery message after it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog
from celery import current_app
from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models.functions import Now

from chat.models import Chat, Message
from chat.parts import Part, TextFile, file_part
from runs import early_stop, feed, lifecycle, roles, stop
from runs.allowance import reached_today
from runs.errors import DayUsedUp, KeyConflict, MessageGone, RequestMisfit, RunAlreadyActive, RunIdTaken, TooManyActive
from runs.failpoints import failpoint
from runs.locks import lock
from runs.models import Run
from runs.roles import Wish

logger = structlog.get_logger(__name__)

# A send is a hint, the sweep repeats it: nobody waits longer for the broker than this.
SEND_SECONDS = 1.0
_senders = ThreadPoolExecutor(4, thread_name_prefix="send")


@dataclass(frozen=True, slots=True)
class Start:
    """A turn somebody asks for. `run_id` is the client's choice, if it made one; so are `client_id`, what it calls the
    message, and `key`, by which it knows its request again. A run that is not `detached` is stopped when the stream
    goes away that owns it, see `runs.attached`.

    With `text` a message is written, which `replaces` another one and all that came after it, or nothing. Without it
    an answer is written anew, if `replaces` says which, or else what was interrupted is gone on with.
    """

    chat: Chat
    user: Any
    text: str
    trigger: Run.Trigger
    wish: Wish = field(default_factory=Wish)
    run_id: UUID | None = None
    files: Sequence[TextFile] = ()
    replaces: UUID | None = None
    client_id: str = ""
    key: str = ""
    detached: bool = True

    @property
    def hash(self) -> str:
        """Tells whether the same id or key came with the same request; which id it was is left to who compares."""
        files = [[file.name, file.text] for file in self.files]
        replaces = self.replaces and str(self.replaces)
        request = [str(self.chat.pk), self.text, self.wish.as_json(), files, replaces]
        if self.run_id is None:
            request.append("no id")
        return hashlib.sha256(json.dumps(request, ensure_ascii=True).encode()).hexdigest()


def start_run(start: Start) -> tuple[Run, bool]:
    """The run, and whether this call made it: the same key or id with the same body finds the run it made before.

    Raises KeyConflict, RunIdTaken, RoleNotFound, ModelNotAllowed, DayUsedUp, TooManyActive, RunAlreadyActive,
    MessageGone, RequestMisfit.
    """
    if known := _replayed(start):
        return known, False
    fields = roles.run_fields(start.chat, _wish(start))
    if used_up := reached_today(start.chat.workspace, start.user.pk):
        raise DayUsedUp(used_up)
    try:
        with transaction.atomic():
            failpoint("before_insert")
            if start.run_id is not None:
                early_stop.hold(start.run_id, start.user)
            # The chat first, as in every transaction; whoever waits here waits for a turn that begins or ends.
            Chat.objects.select_for_update(no_key=True).filter(pk=start.chat.pk).values_list("pk").get()
            if known := _replayed(start):
                return known, False  # the same request won a race against itself, and changed what it looks at
            _make_room(start)
            _expect_few_active(start)
            run = _insert(start, fields)
            if start.run_id is not None and early_stop.is_remembered(start.run_id, start.user):
                run = _born_aborted(run)
            else:
                # No partial: Django reports what failed by its __qualname__, and fails itself where there is none.
                transaction.on_commit(lambda: _send_first(run), robust=True)
    except IntegrityError as error:
        return _refused(start, error)
    logger.info("run_created", run_id=str(run.pk), chat_id=str(run.chat_id), model=run.model)
    return run, True


def _born_aborted(run: Run) -> Run:
    """Its stop was here before it: nobody else has seen it pending, and no worker ever gets it."""
    answer = stop.request_stop(run.pk, run.created_by_id, "user")
    assert answer is not None, "a row of this very transaction"
    return answer.run


def _send_first(run: Run) -> None:
    failpoint("after_commit_before_send")
    send(run.pk, run.attempt)
    failpoint("after_send")


def _insert(start: Start, fields: dict[str, Any]) -> Run:
    if start.key:
        # One that has expired makes room, whether or not a sweep has come by since.
        lifecycle.forget_keys(Run.objects.filter(created_by=start.user, idempotency_key=start.key))
    if start.text:
        parts: list[Part] = [*map(file_part, start.files), {"type": "text", "text": start.text}]
        told = {"parts": parts, "created_by": start.user, "client_id": start.client_id}
        Message.objects.create(chat=start.chat, role=Message.Role.USER, **told)
    answer = Message.objects.create(chat=start.chat, role=Message.Role.ASSISTANT, status=Message.Status.STREAMING)
    run = Run(
        workspace_id=start.chat.workspace_id,
        chat=start.chat,
        created_by=start.user,
        message=answer,
        trigger=start.trigger,
        detached=start.detached,
        attached_seen_at=None if start.detached else Now(),
        sent_at=Now(),
        request_hash=start.hash if start.run_id or start.key else "",
        idempotency_key=start.key,
        **fields,
        **({"pk": start.run_id} if start.run_id else {}),
    )
    run.save(force_insert=True)
    Chat.objects.filter(pk=start.chat.pk).update(updated_at=Now())
    run.refresh_from_db()
    feed.run_changed(run.pk)
    return run


def _make_room(start: Start) -> None:
    """What has to be true of the locked chat, and what leaves it, before the new messages come in."""
    if start.replaces is None and start.text:
        return
    # The insert would be refused as well, but only after a check below had given another reason: whoever comes second
    # with the same replacement is told of the run that the first one began.
    if active := Run.objects.active().filter(chat=start.chat).first():
        raise RunAlreadyActive(active.pk)
    if start.replaces is None:
        _expect_interrupted(start)
    else:
        _replace(start, start.replaces)


def _expect_few_active(start: Start) -> None:
    """Until the transaction ends nobody else counts the person's runs: those that begin at once would all find room."""
    if not settings.LIMIT_ACTIVE_RUNS:
        return
    lock("active runs", start.user.pk)
    if Run.objects.active().filter(created_by=start.user).count() >= settings.LIMIT_ACTIVE_RUNS:
        raise TooManyActive


def _replace(start: Start, message_id: UUID) -> None:
    replaced = Message.objects.current().filter(chat=start.chat, pk=message_id).first()
    if replaced is None:
        raise MessageGone
    if replaced.role == Message.Role.USER and not start.text:
        raise RequestMisfit("text", "A message of a person is replaced by another text.")
    if replaced.role == Message.Role.ASSISTANT and start.text:
        raise RequestMisfit("text", "An answer is written anew by the model: leave the text out.")
    Message.objects.current().from_on(replaced).update(replaced_at=Now())


def _wish(start: Start) -> Wish:
    """Who goes on is whoever was interrupted, unless the request says otherwise."""
    goes_on = start.replaces is None and not start.text
    last = _last_run(start.chat) if goes_on else None
    return roles.as_in(last, start.wish) if last else start.wish


def _last_run(chat: Chat) -> Run | None:
    return Run.objects.filter(chat=chat).order_by("-created_at", "-pk").first()


def _expect_interrupted(start: Start) -> None:
    """The run that goes on writes a message of its own, behind the interrupted one: that is settled, and what a run
    streams is always the whole message it stores. The model gets what was said so far as its own words (see
    `agents.history`), and says only the rest."""
    last = _last_run(start.chat)
    if last is None or last.status not in (Run.Status.FAILED, Run.Status.ABORTED):
        raise RequestMisfit("continue", "There is nothing to continue: no answer was interrupted last.")


def _replayed(start: Start) -> Run | None:
    """The run that this request made before. Raises KeyConflict or RunIdTaken when key or id belong to anything
    else."""
    if start.key and (run := Run.objects.keyed(start.user, start.key).first()):
        if run.request_hash != start.hash or start.run_id not in (None, run.pk):
            raise KeyConflict
        return run
    if start.run_id is None:
        return None
    run = Run.objects.filter(pk=start.run_id).first()
    if run is not None and (run.request_hash != start.hash or run.created_by_id != start.user.pk):
        raise RunIdTaken
    return run


def _refused(start: Start, error: IntegrityError) -> tuple[Run, bool]:
    """Why the INSERT was refused: the same request won a race against itself, or the chat is busy."""
    if known := _replayed(start):
        return known, False
    if _constraint(error) == "one_run_per_idempotency_key":
        return start_run(start)  # the run with this key was deleted in between
    if _constraint(error) != "one_active_run_per_chat":
        raise error
    active = Run.objects.active().filter(chat=start.chat).first()
    if active is not None:
        raise RunAlreadyActive(active.pk)
    return start_run(start)  # it ended in between


def _constraint(error: IntegrityError) -> str | None:
    return getattr(getattr(error.__cause__, "diag", None), "constraint_name", None)


def send(run_id: UUID, attempt: int) -> bool:
    """One Celery message: run id and attempt, nothing else. False: the broker did not take it in time, so it is left to
    the sweep."""
    sent: Future[Any] = _senders.submit(_send, run_id, attempt)
    try:
        sent.result(timeout=SEND_SECONDS)
        return True
    except NotInTime:
        logger.warning("send_slow", run_id=str(run_id), attempt=attempt)
        # One that has begun may still arrive, so nothing is noted of it: a claim ends the repetition.
        if sent.cancel():
            lifecycle.note_unsent([(run_id, attempt)])
    except Exception as error:
        logger.warning("send_failed", run_id=str(run_id), attempt=attempt, error=type(error).__name__)
        lifecycle.note_unsent([(run_id, attempt)])
    return False


def submit(task: str, args: list[Any], queue: str) -> Future[Any]:
    """Any other Celery message, on a thread of its own: nobody waits longer than SEND_SECONDS and then cancels it."""
    return _senders.submit(current_app.send_task, task, args=args, queue=queue)


def _send(run_id: UUID, attempt: int) -> None:
    current_app.send_task("runs.execute_run", args=[str(run_id), attempt], task_id=f"{run_id}.{attempt}", queue="runs")
