"""Looks at an installation from where it stands and says what to do about what is wrong."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

from celery import current_app
from django.conf import settings
from django.core.checks import run_checks
from django.core.management.base import BaseCommand, CommandError

from agents import chunks
from config import health
from runs import eventlog
from runs.connections import REDIS_ERRORS, control
from runs.tail import tail

Problem = str


class Command(BaseCommand):
    help = "Checks settings, database, Redis, workers and a stream round trip."

    def handle(self, **_: Any) -> None:
        checks: dict[str, Callable[[], Iterator[Problem]]] = {
            "settings": _settings,
            "database": _database,
            "redis": _redis,
            "workers": _workers,
            "stream": _stream,
        }
        problems = 0
        for name, check in checks.items():
            found = list(check())
            problems += len(found)
            self.stdout.write(f"{name:10} {'ok' if not found else found[0]}")
            for problem in found[1:]:
                self.stdout.write(f"{'':10} {problem}")
        if problems:
            raise CommandError(f"{problems} problem{'s' if problems > 1 else ''} found.")


def _settings() -> Iterator[Problem]:
    for message in run_checks():
        if message.is_serious():
            yield f"{message.msg} {message.hint or ''}".strip()
    if "*" in settings.ALLOWED_HOSTS and not settings.DEBUG:
        yield "ALLOWED_HOSTS is '*': name the hosts this service answers to."


def _database() -> Iterator[Problem]:
    checks = health.database()
    if checks["database"] != "ok":
        yield "not reachable: is DATABASE_URL right and the server up?"
    elif checks["migrations"] == "pending":
        yield "migrations are pending: run manage.py migrate."


def _redis() -> Iterator[Problem]:
    try:
        policy: Any = control().config_get("maxmemory-policy")
    except REDIS_ERRORS:
        yield "not reachable: is REDIS_URL right and the server up?"
        return
    if policy.get("maxmemory-policy", "noeviction") != "noeviction":
        yield "maxmemory-policy is not noeviction: Redis may throw queued messages away."


def _workers() -> Iterator[Problem]:
    try:
        queues = current_app.control.inspect(timeout=2).active_queues() or {}
    except Exception as error:  # kombu lets through whatever its transport raises
        yield f"cannot be asked: {type(error).__name__}."
        return
    served = {queue["name"] for worker in queues.values() for queue in worker}
    for queue, command in (("runs", "worker"), ("ops", "ops")):
        if queue not in served:
            yield f"nobody serves the queue {queue}: start the process '{command}' of the Procfile."


def _stream() -> Iterator[Problem]:
    try:
        heard = asyncio.run(asyncio.wait_for(_round_trip(), 5))
    except (TimeoutError, *REDIS_ERRORS):
        heard = False
    if not heard:
        yield "an entry that was written to a log did not reach its reader: does Redis allow EVAL and streams?"


async def _round_trip() -> bool:
    run_id = uuid4()
    async with tail().follow(run_id) as feed:
        await asyncio.to_thread(eventlog.write_whole, run_id, 1, [chunks.abort()])
        batch = await feed.take(4)
    await asyncio.to_thread(control().delete, eventlog.key(run_id))
    return bool(batch)
