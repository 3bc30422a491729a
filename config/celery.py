"""The Celery application; what a process becomes when it is started as a worker."""

import atexit
import logging.config
import os
from typing import Any
from uuid import UUID

from celery import Celery, signals
from celery.concurrency.thread import TaskPool
from celery.utils.nodenames import nodesplit
from celery.worker.control import control_command, inspect_command
from django.conf import settings

from config import services

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
if not settings.configured:
    # The celery CLI comes in by this door; manage.py and the web process have seen to it before.
    atexit.register(services.stop, services.ensure())

app = Celery("perdure")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@signals.setup_logging.connect
def _log_like_the_rest(**_: Any) -> None:
    logging.config.dictConfig(settings.LOGGING)


@signals.celeryd_init.connect
def _have_a_name_of_its_own(instance: Any, **_: Any) -> None:
    """Several workers may run on one host; `-n` knows nothing that tells them apart."""
    name, host = nodesplit(instance.hostname)
    instance.hostname = f"{name}-{os.getpid()}@{host}"


@signals.celeryd_after_setup.connect
def _become_worker(sender: str, instance: Any, **_: Any) -> None:
    """Before the first message is taken: the model client is loaded, the loop and the heartbeat run."""
    if not issubclass(instance.pool_cls, TaskPool):
        # A fork has neither the loop nor the heartbeat of its parent, and green threads block both.
        raise SystemExit("Perdure's workers need threads: start them with --pool=threads.")
    try:
        _start_worker(sender, instance)
    except Exception as error:
        # Celery would log it and take messages all the same.
        raise SystemExit(f"This worker cannot start: {type(error).__name__}: {error}") from error


def _start_worker(name: str, instance: Any) -> None:
    from agents.clients import ModelClients
    from runs import worker

    clients = ModelClients(litellm_for_all=settings.AGENT_CLIENT == "litellm")
    if "runs" in instance.app.amqp.queues.consume_from:
        clients.load([settings.AGENT_MODEL, *settings.AGENT_MODELS], settings.AGENT_API_BASE)
    me = worker.start(name, clients)
    signals.worker_shutting_down.connect(lambda **_: me.close(), weak=False)
    signals.worker_shutdown.connect(lambda **_: me.end(), weak=False)


@inspect_command()
def live_runs(state: Any) -> list[dict[str, Any]]:
    """The runs this worker holds."""
    from runs import worker

    return worker.current().live_runs()


@control_command(args=[("run_id", str)], signature="<run_id>")
def stop_run(state: Any, run_id: str) -> dict[str, Any]:
    """Asks for the stop of a run, whichever worker holds it."""
    from django.db import connection

    from runs.stop import request_stop

    try:
        answer = request_stop(UUID(run_id), None, "console")
    except ValueError:
        return {"error": "that is no run id"}
    finally:
        connection.close()
    if answer is None:
        return {"error": "there is no such run"}
    return {"stopped": answer.took_effect, "status": answer.run.status}
