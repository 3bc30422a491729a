"""Owns the clusters that acceptance tests share, and the log tails shown beside a failure."""

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.acceptance.audit import nothing_left, watch_statuses
from tests.acceptance.client import Client
from tests.acceptance.cluster import Cluster
from tests.acceptance.failpoints import Failpoints
from tests.acceptance.proxied import ProxiedCluster

MakeCluster = Callable[..., Cluster]

# A key that may be told nobody, a provider that is soon thought silent, and crashes enough for a soak.
PROXIED = {"OPENAI_API_KEY": "sk-canary-5b0d9e1f7a", "MODEL_STALL_SECONDS": "5", "RUN_MAX_ATTEMPTS": "10"}


@pytest.fixture(scope="session")
def session_failpoints(tmp_path_factory: pytest.TempPathFactory) -> Failpoints:
    return Failpoints(tmp_path_factory.mktemp("failpoints"))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, session_failpoints: Failpoints) -> Iterator[Cluster]:
    """Two workers and everything else, with small windows. A test leaves it as it found it: see `resume_all`."""
    folder = tmp_path_factory.mktemp("cluster")
    with Cluster(folder, env=session_failpoints.env, worker_app="tests.acceptance.worker_with_tools") as cluster:
        watch_statuses(cluster)
        yield cluster


@pytest.fixture
def failpoints(session_failpoints: Failpoints) -> Iterator[Failpoints]:
    """Those of the cluster's processes; none stays armed."""
    yield session_failpoints
    session_failpoints.disarm()


@pytest.fixture
def healed(cluster: Cluster, failpoints: Failpoints) -> Iterator[None]:
    """All processes are there before the test; after it nothing is armed or dead, and no run is left."""
    cluster.resume_all()
    yield
    failpoints.disarm()
    cluster.revive()
    nothing_left(cluster)


@pytest.fixture(scope="session")
def proxied_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxiedCluster]:
    with ProxiedCluster(tmp_path_factory.mktemp("proxied"), env=PROXIED) as cluster:
        watch_statuses(cluster)
        yield cluster


@pytest.fixture
def proxied(proxied_cluster: ProxiedCluster) -> Iterator[ProxiedCluster]:
    """The cluster whose network and servers may be broken; whole again after each test."""
    yield proxied_cluster
    proxied_cluster.resume_all()
    nothing_left(proxied_cluster)


@pytest.fixture
def person(proxied: ProxiedCluster) -> Iterator[Client]:
    with proxied.client() as client:
        yield client


@pytest.fixture
def make_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeCluster]:
    """Started clusters of a test's own: `make_cluster(workers=1, env={"RUN_MAX_ATTEMPTS": "1"})`."""
    with ExitStack() as stack:

        def make(**options: Any) -> Cluster:
            return stack.enter_context(Cluster(tmp_path_factory.mktemp("cluster"), **options))

        yield make


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    with cluster.client() as client:
        yield client


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    found = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and isinstance(found, Cluster):
        report.sections.append(("the cluster's logs", found.tails()))
    return report
