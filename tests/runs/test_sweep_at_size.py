"""The sweep among a hundred thousand runs: seconds, a bounded number of queries, indexes."""

import time
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from runs import eventlog, sweep
from runs.models import Run
from tests.factories import RunFactory
from tests.timing import in_time

pytestmark = [pytest.mark.alone, pytest.mark.django_db, pytest.mark.usefixtures("redis")]

TERMINAL, STALE = 100_000, 5_000

_COPY = """
    INSERT INTO runs_run SELECT copy.*
    FROM runs_run run, {source},
        jsonb_populate_record(run, jsonb_build_object('id', gen_random_uuid(), 'message_id', NULL, {changes})) AS copy
    WHERE run.id = %s
"""


@pytest.fixture
def _many() -> None:
    """Copies of one run: stale ones in a chat of their own each, terminal ones all in its chat."""
    run = RunFactory()
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = 0")
        cursor.execute(
            "INSERT INTO chat_chat (id, workspace_id, created_by_id, title) SELECT gen_random_uuid(), workspace_id, "
            "created_by_id, '' FROM chat_chat, generate_series(1, %s)",
            [STALE],
        )
        stale = "'chat_id', c.id, 'status', 'running', 'heartbeat_at', now() - interval '1 hour'"
        cursor.execute(_COPY.format(changes=stale, source="chat_chat c") + "AND c.id <> run.chat_id", [run.pk])
        ended = "'status', 'succeeded', 'end_reason', 'completed', 'finished_at', now(), 'step_count', number"
        cursor.execute(_COPY.format(changes=ended, source=f"generate_series(1, {TERMINAL}) AS number"), [run.pk])
        cursor.execute("ANALYZE runs_run")


@pytest.mark.usefixtures("_many")
def test_five_thousand_stale_runs_are_rescued_in_seconds(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, record_property: Any
) -> None:
    settings.RUN_SWEEP_SECONDS = 10.0
    monkeypatch.setattr(sweep.dispatch, "send", lambda *_: True)
    monkeypatch.setattr(eventlog, "fence", lambda *_: True)
    began = time.monotonic()
    with CaptureQueriesContext(
        connection,
    ) as queries:
        swept = sweep.sweep(window_seconds=30)
    took = time.monotonic() - began
    record_property("seconds", took)
    assert len(swept.rescued) == STALE
    assert Run.objects.filter(status="running").count() == 0
    in_time(took, 10)
    # two statements and a savepoint's two a batch of 500, and a handful around them
    assert len(queries) < 4 * (STALE // sweep.BATCH + 1) + 15
    plans = [plan(query["sql"]) for query in queries if query["sql"].startswith("SELECT")]
    assert len(plans) > STALE // sweep.BATCH
    assert not [text for text in plans if "Seq Scan on runs_run" in text]


def plan(statement: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {statement}")
        return "\n".join(row[0] for row in cursor.fetchall())
