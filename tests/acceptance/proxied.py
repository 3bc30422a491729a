"""A cluster whose network a test can break: its processes reach every server through a proxy."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from config.supervisor import Child
from tests.acceptance.cluster import Cluster
from tests.acceptance.proxy import Proxy, Target

DEFAULT_PORTS = {"postgresql": 5432, "postgres": 5432, "redis": 6379, "http": 80}


class ProxiedCluster(Cluster):
    """The test itself, with `query` and `redis_client`, goes straight to the servers."""

    to_postgres: Proxy
    to_redis: Proxy
    to_model: Proxy

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, **options)
        self._addresses: dict[str, str] = {}

    @property
    def proxies(self) -> list[Proxy]:
        return [self.to_postgres, self.to_redis, self.to_model] if self._addresses else []

    def start_servers(self) -> None:
        super().start_servers()
        self.env["AGENT_API_BASE"] = f"{self.model_address}/v1"
        names = ("DATABASE_URL", "REDIS_URL", "AGENT_API_BASE")
        self.to_postgres, self.to_redis, self.to_model = (Proxy(target(self.env[name])).start() for name in names)
        ports = (self.to_postgres.port, self.to_redis.port, self.to_model.port)
        self._addresses = {name: through(self.env[name], port) for name, port in zip(names, ports, strict=True)}

    def resume_all(self) -> None:
        for proxy in self.proxies:
            proxy.pass_on()
        super().resume_all()

    def stop(self) -> None:
        super().stop()
        for proxy in self.proxies:
            proxy.stop()

    def _start(self, name: str, command: list[str], env: Mapping[str, str] | None = None) -> Child:
        return super()._start(name, command, {**self._addresses, **(env or {})})


def target(url: str) -> Target:
    """Where a server listens: PostgreSQL names the folder of a Unix socket as the query's `host`."""
    parts = urlsplit(url)
    port = parts.port or DEFAULT_PORTS[parts.scheme]
    folder = dict(parse_qsl(parts.query)).get("host")
    return f"{folder}/.s.PGSQL.{port}" if folder else (parts.hostname or "127.0.0.1", port)


def through(url: str, port: int) -> str:
    """The same server, behind the proxy on that port."""
    parts = urlsplit(url)
    query = urlencode([(name, value) for name, value in parse_qsl(parts.query) if name != "host"])
    credentials, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{credentials}{at}127.0.0.1:{port}", query=query))
