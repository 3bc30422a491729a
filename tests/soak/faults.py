"""Owns the faults: what each does to the installation, and the order in which a seed picks them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from random import Random

from config.processes import wait_until
from config.supervisor import Child
from tests.acceptance.cluster import READY_SECONDS
from tests.acceptance.proxied import ProxiedCluster
from tests.acceptance.proxy import Proxy

# Within these a worker that is told to leave has left: the grace of its tools, and some.
LEAVE_SECONDS = 20.0
SILENCE_SECONDS = 3.0


class Faults:
    """Each returns when the fault is over; what it ended is being started again by then."""

    def __init__(self, cluster: ProxiedCluster, rng: Random) -> None:
        self._cluster = cluster
        self._rng = rng

    def worker_killed(self) -> None:
        victim = self._worker()
        victim.kill()
        victim.start()

    def worker_terminated(self) -> None:
        victim = self._worker()
        victim.terminate()
        assert victim.wait(LEAVE_SECONDS), f"{victim.name} does not leave"
        victim.start()

    def worker_frozen(self) -> None:
        """For longer than the stale window and a sweep: it wakes as a zombie."""
        victim = self._worker()
        victim.pause()
        time.sleep(sum(float(self._cluster.env[name]) for name in ("RUN_STALE_SECONDS", "RUN_SWEEP_SECONDS")) + 1)
        victim.resume()

    def web_killed(self) -> None:
        self._cluster.web.kill()
        self._cluster.restart(self._cluster.web)

    def web_terminated(self) -> None:
        self._cluster.restart(self._cluster.web)

    def sweeper_killed(self) -> None:
        victim = self._rng.choice([self._cluster.ops, self._cluster.beat])
        victim.kill()
        victim.start()

    def redis_flushed(self) -> None:
        with self._cluster.redis_client() as redis:
            redis.flushall()

    def redis_restarted(self) -> None:
        assert self._cluster.redis is not None
        self._cluster.redis.restart()

    def redis_clients_killed(self) -> None:
        with self._cluster.redis_client() as redis:
            for kind in ("pubsub", "normal"):
                redis.execute_command("CLIENT", "KILL", "TYPE", kind)

    def redis_silent(self) -> None:
        self._silence(self._cluster.to_redis)

    def postgres_backends_killed(self) -> None:
        for _ in range(3):
            terminate_backends(self._cluster)
            time.sleep(0.5)

    def postgres_restarted(self) -> None:
        assert self._cluster.postgres is not None
        self._cluster.postgres.restart()

    def postgres_silent(self) -> None:
        self._silence(self._cluster.to_postgres)

    def network_reset(self) -> None:
        self._cluster.to_redis.reset()
        self._cluster.to_postgres.reset()

    def provider_reset(self) -> None:
        self._cluster.to_model.reset()

    def _silence(self, proxy: Proxy) -> None:
        proxy.swallow()
        time.sleep(SILENCE_SECONDS)
        proxy.pass_on()

    def _worker(self) -> Child:
        """One that works, while another does as well."""
        working: list[Child] = []

        def enough() -> bool:
            working[:] = [worker for worker in self._cluster.workers if worker.pid and worker.has_said(" ready.")]
            return len(working) > 1

        assert wait_until(enough, 2 * READY_SECONDS), "the workers do not come back"
        return self._rng.choice(working)


def terminate_backends(cluster: ProxiedCluster) -> None:
    """About half of all connections that processes of the service have."""
    cluster.query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND random() < 0.5"
    )


def kinds(cluster: ProxiedCluster) -> list[str]:
    """All faults that this installation can be given: nobody restarts a server that is not ours."""
    ours = {"postgres": cluster.postgres is not None, "redis": cluster.redis is not None}
    named = [name for name in vars(Faults) if not name.startswith("_")]
    return [name for name in named if not name.endswith("_restarted") or ours[name.removesuffix("_restarted")]]


def schedule(names: list[str], count: int, rng: Random) -> Iterator[str]:
    """Every kind once before any comes again."""
    while count > 0:
        names = rng.sample(names, len(names))
        yield from names[:count]
        count -= len(names)


def fault(faults: Faults, name: str) -> Callable[[], None]:
    act: Callable[[], None] = getattr(faults, name)
    return act
