"""Stops that overtake the create of their run: remembered for a while under the id that the client chose.

Whoever remembers one and whoever creates the run hold the same lock meanwhile, so that one of them sees the other.
Source: `docs/api.md`, "Stop".
"""

from typing import Any
from uuid import UUID

import structlog
from django.db import transaction
from django.db.models.functions import Now

from runs.locks import lock
from runs.models import EarlyStop, Run

logger = structlog.get_logger(__name__)


@transaction.atomic
def remember(run_id: UUID, user: Any) -> bool:
    """Remembers this person's wish, or remembers it longer. False: the person has such a run by now."""
    hold(run_id, user)
    if Run.objects.owned_by(user).filter(pk=run_id).exists():
        return False
    EarlyStop.objects.bulk_create(
        [EarlyStop(user=user, run_id=run_id, created_at=Now())],
        update_conflicts=True,
        unique_fields=["user", "run_id"],
        update_fields=["created_at"],
    )
    logger.info("early_stop_remembered", run_id=str(run_id))
    return True


def hold(run_id: UUID, user: Any) -> None:
    """Until the transaction ends nobody remembers a stop of this id, nor creates a run with it, in this person's
    name."""
    lock("run id", user.pk, run_id)


def is_remembered(run_id: UUID, user: Any) -> bool:
    return EarlyStop.objects.fresh().filter(user=user, run_id=run_id).exists()
