"""Alive, and able to serve: what a load balancer and an operator ask first."""

from concurrent.futures import Future, ThreadPoolExecutor

from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_safe

from runs import feed_stream
from runs.connections import REDIS_ERRORS, control

# A database that is frozen rather than down never answers, not even with an error.
PATIENCE_SECONDS = 2.0


@csrf_exempt
@require_safe
@never_cache
def healthz(request: HttpRequest) -> JsonResponse:
    """The process answers."""
    return JsonResponse({"status": "ok"})


@csrf_exempt
@require_safe
@never_cache
def readyz(request: HttpRequest) -> JsonResponse:
    """503 while anything is down that a request may need, and which.

    `feed_silence_seconds` is how long ago the listener of the lifecycle feed proved that it hears, which it does every
    ten seconds; null while nobody follows.
    """
    checks = {**database(), "redis": redis()}
    ready = all(state == "ok" for state in checks.values())
    silence = feed_stream.silence()
    facts = {
        "status": "ok" if ready else "unavailable",
        **checks,
        "feed_silence_seconds": silence and round(silence, 1),
    }
    return JsonResponse(facts, status=200 if ready else 503)


class Probe:
    """Asks the database in a thread of its own, once at a time: whoever finds it asking still calls it down."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="readiness")
        self._asked: Future[dict[str, str]] | None = None

    def answer(self) -> dict[str, str]:
        if self._asked is None or self._asked.done():
            self._asked = self._thread.submit(_ask)
        try:
            return self._asked.result(PATIENCE_SECONDS)
        except (TimeoutError, DatabaseError):
            return {"database": "down", "migrations": "unknown"}


_probe = Probe()


def database() -> dict[str, str]:
    """The states of `database` and `migrations`, in time."""
    return _probe.answer()


def _ask() -> dict[str, str]:
    try:
        return {"database": "ok", "migrations": migrations()}
    finally:
        connection.close()


def redis() -> str:
    try:
        control().ping()
    except REDIS_ERRORS:
        return "down"
    return "ok"


def migrations() -> str:
    """Raises DatabaseError."""
    executor = MigrationExecutor(connection)
    pending = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return "pending" if pending else "ok"
