"""Alive, and able to serve."""

from typing import Any

import pytest
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client

from runs import connections

pytestmark = pytest.mark.django_db


def test_a_live_process_says_so(client: Client) -> None:
    response = client.get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert "no-store" in response["Cache-Control"]


def test_a_process_that_can_serve_says_so(client: Client) -> None:
    response = client.get("/readyz")
    assert response.status_code == 200
    assert response.json() == {"status": "ok", "database": "ok", "redis": "ok", "migrations": "ok"}


def test_a_process_with_migrations_to_come_is_not_ready(client: Client) -> None:
    MigrationRecorder(connection).record_unapplied("runs", "0001_initial")
    response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json() == {"status": "unavailable", "database": "ok", "redis": "ok", "migrations": "pending"}


def test_a_process_without_redis_is_alive_but_not_ready(client: Client, settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    connections.control.cache_clear()
    try:
        response = client.get("/readyz")
        assert client.get("/healthz").status_code == 200
    finally:
        connections.control.cache_clear()
    assert (response.status_code, response.json()["redis"]) == (503, "down")


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_is_read_only(client: Client, path: str) -> None:
    assert client.head(path).status_code == 200
    assert client.post(path).status_code == 405
