"""Owns the installation that is measured: the processes of a production, with its windows and its durability."""

from pathlib import Path

from config.embedded import EmbeddedPostgres
from config.supervisor import Child, Interrupts
from tests.acceptance.cluster import FAST, Cluster

# On a machine that others use as well, a worker may take a minute to load the model client.
READY_SECONDS = 180.0


class Installation(Cluster):
    """A cluster that hurries nowhere: the service's own windows, and a Postgres that waits for its disk."""

    def __init__(self, folder: Path, interrupts: Interrupts) -> None:
        super().__init__(folder, workers=2)
        self._interrupts = interrupts
        self.env = {name: value for name, value in self.env.items() if name not in FAST}
        # Two workers, so that 400 runs find their place.
        self.env["RUN_CONCURRENCY"] = "250"
        if self.servers.postgres is not None:
            self.servers.postgres = EmbeddedPostgres(folder / "postgres")

    def wait_ready(self, child: Child, seconds: float = READY_SECONDS) -> None:
        super().wait_ready(child, seconds)

    def stop(self) -> None:
        self._interrupts.ignore()  # nothing is left behind
        super().stop()

    @property
    def roots(self) -> dict[str, list[int]]:
        """The processes of each kind, without those they forked. Servers that somebody provides are not among them."""
        kinds = {
            "web": [self.web.pid],
            "workers": [worker.pid for worker in self.workers],
            "ops": [self.ops.pid],
            "beat": [self.beat.pid],
            "postgres": [self.postgres and self.postgres.pid],
            "redis": [self.redis and self.redis.pid],
            "model": [self.model.pid],
        }
        return {kind: [pid for pid in pids if pid] for kind, pids in kinds.items()}
