"""The heartbeats of a process, each one statement: the leases of a worker on all its runs, and the streams of a web
process to which runs are attached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from django.db import connection

from runs.lifecycle import Held
from runs.models import Run

# Raw, because the ORM can neither skip locked rows in an UPDATE nor return what it changed. One locked row must not
# keep all the other leases from being renewed.
_BEAT = """
    UPDATE runs_run SET heartbeat_at = statement_timestamp()
    WHERE id IN (
        SELECT r.id FROM runs_run r
        JOIN unnest(%s::uuid[], %s::int[]) AS held(id, attempt) ON r.id = held.id AND r.attempt = held.attempt
        WHERE r.status = 'running'
        FOR NO KEY UPDATE OF r SKIP LOCKED
    )
    RETURNING id, attempt, stop_requested_at IS NOT NULL
"""


@dataclass(frozen=True, slots=True)
class Beat:
    """What a heartbeat learned: what somebody asked to stop, and what this process does not hold any more."""

    stopping: set[Held]
    lost: set[Held]


def beat(held: Sequence[Held]) -> Beat:
    """Renews all these leases in one statement."""
    with connection.cursor() as cursor:
        cursor.execute(_BEAT, [[run_id for run_id, _ in held], [attempt for _, attempt in held]])
        beaten = {(run_id, attempt): stop for run_id, attempt, stop in cursor.fetchall()}
    # What the statement skipped was locked, or it is lost: a plain read tells.
    skipped = set(held) - beaten.keys()
    beaten |= _still_held(skipped) if skipped else {}
    return Beat({one for one, stop in beaten.items() if stop}, set(held) - beaten.keys())


def _still_held(skipped: set[Held]) -> dict[Held, bool]:
    running = Run.objects.filter(pk__in={run_id for run_id, _ in skipped}, status=Run.Status.RUNNING)
    rows = running.values_list("pk", "attempt", "stop_requested_at")
    return {(run_id, attempt): stop is not None for run_id, attempt, stop in rows if (run_id, attempt) in skipped}


# Raw for the same reasons.
_RENEW_ATTACHED = """
    UPDATE runs_run SET attached_seen_at = statement_timestamp()
    WHERE id IN (
        SELECT id FROM runs_run
        WHERE id = ANY(%s::uuid[]) AND NOT detached AND status IN ('pending', 'running')
        FOR NO KEY UPDATE SKIP LOCKED
    )
"""


def renew_attached(run_ids: Sequence[UUID]) -> None:
    """The streams that own these runs are open."""
    with connection.cursor() as cursor:
        cursor.execute(_RENEW_ATTACHED, [list(run_ids)])
