"""Real Postgres and Redis for every test, up before Django's settings are read (a pytest plugin)."""

import atexit
import os
import tempfile
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

# A state folder of their own: a demo that happens to run keeps its data.
os.environ.setdefault("PERDURE_STATE", str(Path(tempfile.gettempdir()) / f"perdure-tests-{os.getuid()}"))
os.environ.setdefault("OPENAI_API_KEY", "none")
os.environ.setdefault("AGENT_MODELS", "openai/*")
# What a test is not about does not count what the tests before it did.
os.environ.setdefault("LIMIT_ACTIVE_RUNS", "0")
os.environ.setdefault("LIMIT_STARTS_PER_MINUTE", "0")
os.environ.setdefault("LIMIT_STREAMS", "0")
os.environ.setdefault("LIMIT_STREAMS_PER_MINUTE", "0")
os.environ.setdefault("LIMIT_LOGINS_PER_MINUTE", "0")

import pytest
from redis import Redis

from config import services


def _empty_database(url: str) -> str:
    """One of a server that is not ours: what the tests flush was empty before."""
    for number in range(15, 0, -1):
        candidate = urlunsplit(urlsplit(url)._replace(path=f"/{number}"))
        with Redis.from_url(candidate) as client:
            if client.dbsize() == 0:
                return candidate
    pytest.exit("REDIS_URL has no empty database among 1 to 15 for the tests.", returncode=3)


# Each process of pytest-xdist has servers of its own: the channels of Redis are those of all its databases.
_given = os.environ.setdefault("PERDURE_TESTS_GIVEN", " ".join(filter(os.environ.get, services.NAMES)))
if _process := os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ["PERDURE_STATE"] += f"-{_process}"
    for _name in set(services.NAMES) - set(_given.split()):
        os.environ.pop(_name, None)
_started = services.ensure(fast=True)
atexit.register(services.stop, _started)
if "REDIS_URL" in _given and _started.redis is None:
    os.environ["REDIS_URL"] = _empty_database(os.environ["REDIS_URL"])


def pytest_xdist_auto_num_workers() -> int:
    """As many processes as `-n auto` means; one where the servers are not ours."""
    return 1 if _given else min(os.cpu_count() or 1, 4)
