"""A person with a chat, and that person's ways to ask."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client

from chat.models import Chat
from runs.tail import tail
from tests.api.callers import Api, by_session, by_token
from tests.factories import ChatFactory


@pytest.fixture(scope="session", autouse=True)
def _nobody_stays_connected(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Threads that served streams keep their connections, and the database of the tests could not be dropped."""
    yield
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    connection.close()


@pytest.fixture
def chat() -> Chat:
    return ChatFactory(title="mine")


@pytest.fixture
def person(chat: Chat) -> Any:
    return chat.created_by


@pytest.fixture
def admin() -> Client:
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("root"))
    return client


@pytest.fixture
def api(person: Any) -> Api:
    """As a browser: by session."""
    return by_session(person)


@pytest.fixture
def program(person: Any) -> Api:
    """As a program: by token."""
    return by_token(person)


@pytest.fixture
async def tail_ends_with_its_loop() -> AsyncIterator[None]:
    yield
    tasks = tail()._tasks
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
