"""Celery's doors to the runs."""

from uuid import UUID

import structlog
from celery import shared_task
from django.conf import settings

from runs import sweep, titles, worker
from runs.witness import witness

logger = structlog.get_logger(__name__)


@shared_task(name="runs.execute_run")
def execute_run(run_id: object = None, attempt: object = None, *_: object, **__: object) -> None:
    """Takes whatever older or newer code, or anybody else, puts into the queue; the row decides what comes of it."""
    try:
        parsed = UUID(str(run_id)), int(str(attempt))
    except ValueError:
        logger.warning("message_ignored", task="runs.execute_run")
        return
    worker.current().execute(*parsed)


@shared_task(name=titles.TASK)
def title_chat(chat_id: object = None, *_: object, **__: object) -> None:
    """Returns at once: no sweep waits in the queue behind a model that is slow to find a title."""
    try:
        parsed = UUID(str(chat_id))
    except ValueError:
        logger.warning("message_ignored", task=titles.TASK)
        return
    worker.current().give_title(parsed)


@shared_task(name="runs.sweep")
def sweep_runs(**_: object) -> None:
    if witness.can_judge(settings.RUN_STALE_SECONDS):
        sweep.sweep()
