"""What every door that starts a run has in common: what has to be true first, and what is answered if it is not."""

from __future__ import annotations

import re
from uuid import UUID

from django.conf import settings
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request

from chat.api.errors import ApiError
from chat.models import Chat, Workspace
from runs import dispatch, sweep
from runs.allowance import seconds_of_today_left
from runs.api import admission
from runs.dispatch import Start
from runs.errors import (
    DayUsedUp,
    KeyConflict,
    MessageGone,
    ModelNotAllowed,
    RequestMisfit,
    RoleNotFound,
    RunAlreadyActive,
    RunIdTaken,
    TooManyActive,
)
from runs.models import Run
from runs.witness import witness

# As long as the column, and nothing that could not be written down in a header again.
KEY = re.compile(r"^[!-~]([ -~]{0,253}[!-~])?$", re.ASCII)
# The codes that every door which starts a run may answer.
REFUSES = ("AI_CHAT_OFF", "A_RUN_ALREADY_ACTIVE", "RATE_LIMITED", "TOO_MANY_ACTIVE_RUNS")


def not_found() -> ApiError:
    return ApiError(404, "NOT_FOUND", "There is nothing here.")


def no_such_role() -> ApiError:
    return ApiError(404, "NOT_FOUND", "There is no such role.")


def check_switches(workspace: Workspace, *, detached: bool) -> None:
    """Raises ApiError where the workspace does not want such a run."""
    if not workspace.ai_chat:
        raise ApiError(403, "AI_CHAT_OFF", "The AI is switched off in this workspace.")
    if detached and not workspace.autonomous_runs:
        raise ApiError(403, "AUTONOMOUS_RUNS_OFF", "Detached runs are switched off in this workspace.")


def key_of(request: Request) -> str:
    """Its idempotency key; empty where it has none. Raises ValidationError."""
    sent: str | None = request.headers.get("Idempotency-Key")
    if sent is None:
        return ""
    if not KEY.fullmatch(sent):
        raise ValidationError({"Idempotency-Key": ["A key is 1 to 255 printable ASCII characters."]})
    return sent


def start(wanted: Start) -> tuple[Run, bool]:
    """As `dispatch.start_run`, counted. Raises ApiError or ValidationError."""
    admission.to_start(wanted.user)
    return _start(wanted)


def _start(wanted: Start) -> tuple[Run, bool]:
    try:
        return dispatch.start_run(wanted)
    except (Chat.DoesNotExist, MessageGone) as error:  # since it was looked up, or as far as this chat goes
        raise not_found() from error
    except RequestMisfit as error:
        raise ValidationError({error.field: [str(error)]}) from error
    except RoleNotFound as error:
        raise no_such_role() from error
    except ModelNotAllowed as error:
        raise ValidationError({error.named_by: ["Its model is not among those a run may name."]}) from error
    except DayUsedUp as error:
        raise ApiError(429, "RATE_LIMITED", str(error), retry_after=seconds_of_today_left()) from error
    except TooManyActive as error:
        raise admission.too_many_active_runs() from error
    except KeyConflict as error:
        detail = "This idempotency key came with another request before."
        raise ApiError(409, "IDEMPOTENCY_CONFLICT", detail) from error
    except RunIdTaken as error:
        raise ApiError(409, "ID_TAKEN", "This id is taken.") from error
    except RunAlreadyActive as error:
        if _healed(wanted.chat, error.run_id):
            return _start(wanted)
        detail = "A run is active in this chat already."
        raise ApiError(409, "A_RUN_ALREADY_ACTIVE", detail, run_id=str(error.run_id)) from error


def _healed(chat: Chat, run_id: UUID) -> bool:
    """Sweeps a chat whose run looks dead, without waiting for beat. True if that ended the run."""
    if not witness.can_judge(settings.RUN_STALE_SECONDS):
        return False
    if not Run.objects.stale(settings.RUN_STALE_SECONDS).filter(pk=run_id).exists():
        return False
    sweep.heal(chat.pk)
    return not Run.objects.active().filter(pk=run_id).exists()
