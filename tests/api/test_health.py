"""Alive, and able to serve."""

import threading
from typing import Any

import pytest
from django.db import connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client

from config import health
from config.processes import wait_until
from runs import connections

pytestmark = pytest.mark.django_db


def test_a_live_process_says_so(client: Client) -> None:
    response = client.get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert "no-store" in response["Cache-Control"]


def checks(response: Any) -> dict[str, Any]:
    """Beside them it tells a fact that no check depends on."""
    told: dict[str, Any] = response.json()
    assert "feed_silence_seconds" in told
    return {name: state for name, state in told.items() if name != "feed_silence_seconds"}


def test_a_process_that_can_serve_says_so(client: Client) -> None:
    response = client.get("/readyz")
    assert response.status_code == 200
    assert checks(response) == {"status": "ok", "database": "ok", "redis": "ok", "migrations": "ok"}


@pytest.mark.django_db(transaction=True)
def test_a_process_with_migrations_to_come_is_not_ready(client: Client) -> None:
    recorder = MigrationRecorder(connection)
    (newest,) = MigrationLoader(connection).graph.leaf_nodes("runs")
    recorder.record_unapplied(*newest)
    try:
        response = client.get("/readyz")
    finally:
        recorder.record_applied(*newest)
    assert response.status_code == 503
    assert checks(response) == {"status": "unavailable", "database": "ok", "redis": "ok", "migrations": "pending"}


def test_a_process_without_redis_is_alive_but_not_ready(client: Client, settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    connections.control.cache_clear()
    try:
        response = client.get("/readyz")
        assert client.get("/healthz").status_code == 200
    finally:
        connections.control.cache_clear()
    assert (response.status_code, response.json()["redis"]) == (503, "down")


def test_a_database_that_never_answers_is_down_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer = [], threading.Event()

    def ask() -> dict[str, str]:
        asked.append(1)
        answer.wait(30)
        return {"database": "ok", "migrations": "ok"}

    monkeypatch.setattr(health, "_ask", ask)
    monkeypatch.setattr(health, "PATIENCE_SECONDS", 0.05)
    probe = health.Probe()
    for _ in range(3):
        assert probe.answer()["database"] == "down"
    assert asked == [1]
    answer.set()
    assert wait_until(lambda: probe.answer()["database"] == "ok", 5)


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_is_read_only(client: Client, path: str) -> None:
    assert client.head(path).status_code == 200
    assert client.post(path).status_code == 405
