"""Owns real processes for acceptance tests and benchmarks: servers, demo model, web, workers, ops and beat."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self
from uuid import uuid4

import httpx
import psycopg
from psycopg import sql
from redis import Redis

from config import services
from config.embedded import EmbeddedPostgres, EmbeddedRedis
from config.processes import free_port
from config.supervisor import Child, procfile_command, stop_all, wait_for
from tests.acceptance.client import Client

READY_SECONDS = 120.0
STOP_SECONDS = 20.0
# As the Procfile names it.
APP = "config.asgi:application"

# Small windows, so that a crash takes seconds; production's are ten times as long.
FAST = {"RUN_HEARTBEAT_SECONDS": "0.5", "RUN_STALE_SECONDS": "3", "RUN_SWEEP_SECONDS": "1"}
SETTINGS = {
    "AGENT_MODEL": "openai/demo",
    "AGENT_MODELS": "openai/*",
    "OPENAI_API_KEY": "demo",
    "SECRET_KEY": "acceptance-tests-only-" + uuid4().hex,
    "DEBUG": "0",
    "LIMIT_ACTIVE_RUNS": "0",
    "LIMIT_STARTS_PER_MINUTE": "0",
    "LIMIT_STREAMS": "0",
    "LIMIT_STREAMS_PER_MINUTE": "0",
    "LIMIT_LOGINS_PER_MINUTE": "0",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}


class Account(NamedTuple):
    username: str
    password: str
    workspace_id: str
    token: str


class Servers:
    """PostgreSQL and Redis of one cluster: fresh embedded ones, or a database on the servers somebody provides."""

    def __init__(self, folder: Path, *, durable_redis: bool = True) -> None:
        given = {name: url for name in services.NAMES if (url := given_url(name))}
        self.postgres = None if "DATABASE_URL" in given else EmbeddedPostgres(folder / "postgres", fast=True)
        self.redis = None if "REDIS_URL" in given else EmbeddedRedis(folder / "redis", durable=durable_redis)
        self._given = given
        self._database = f"perdure_{uuid4().hex[:12]}"

    def start(self) -> dict[str, str]:
        """Their addresses, as environment variables."""
        return {"DATABASE_URL": self._start_postgres(), "REDIS_URL": self._start_redis()}

    def stop(self) -> None:
        if self.postgres is not None:
            self.postgres.stop()
        else:
            self._administer(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)"))
        if self.redis is not None:
            self.redis.stop()

    def _start_postgres(self) -> str:
        if self.postgres is not None:
            self.postgres.start()
            return self.postgres.url
        self._administer(sql.SQL("CREATE DATABASE {}"))
        return str(httpx.URL(self._given["DATABASE_URL"]).copy_with(path=f"/{self._database}"))

    def _start_redis(self) -> str:
        if self.redis is not None:
            self.redis.start()
            return self.redis.url
        for number in range(15, 0, -1):
            url = str(httpx.URL(self._given["REDIS_URL"]).copy_with(path=f"/{number}"))
            with Redis.from_url(url) as client:
                if client.dbsize() == 0:
                    return url
        raise services.ServicesError("No empty Redis database is left among 1 to 15.")

    def _administer(self, statement: sql.SQL) -> None:
        with psycopg.connect(self._given["DATABASE_URL"], autocommit=True) as connection:
            connection.execute(statement.format(sql.Identifier(self._database)))


def given_url(name: str) -> str | None:
    """The address from the environment, unless it is that of this project's own embedded server."""
    url = os.environ.get(name)
    return url if url and url not in (services.recorded_urls() or ()) else None


class Cluster:
    """One installation of the service. Processes are named as in the Procfile, workers `worker-1`, `worker-2` ...

    Everything in `env` goes to each process. A test that wants something between a process and a server starts the
    servers first, changes `env`, then starts the processes.
    """

    def __init__(
        self,
        folder: Path,
        *,
        workers: int = 2,
        env: Mapping[str, str] | None = None,
        durable_redis: bool = True,
        worker_app: str = "config",
    ) -> None:
        self.folder = folder
        self.servers = Servers(folder, durable_redis=durable_redis)
        self.env = {**SETTINGS, **FAST, "PERDURE_STATE": str(folder / "state"), **(env or {})}
        self.children: dict[str, Child] = {}
        self._worker_count = workers
        self._worker_app = worker_app
        self._port = free_port()
        self._model_port = free_port()
        self._account: Account | None = None

    def __enter__(self) -> Self:
        try:
            self.start_servers()
            self.start_processes()
        except BaseException as error:
            error.add_note(self.tails())
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def model_address(self) -> str:
        return f"http://127.0.0.1:{self._model_port}"

    @property
    def web(self) -> Child:
        return self.children["web"]

    @property
    def beat(self) -> Child:
        return self.children["beat"]

    @property
    def ops(self) -> Child:
        return self.children["ops"]

    @property
    def model(self) -> Child:
        return self.children["model"]

    @property
    def workers(self) -> list[Child]:
        return [child for name, child in self.children.items() if name.startswith("worker-")]

    def holder(self, run: Mapping[str, Any]) -> Child:
        """The worker that the row of this run names."""
        (name,) = self.query("SELECT worker FROM runs_run WHERE id = %s", run["id"])[0]
        return next(worker for worker in self.workers if name.startswith(f"{worker.name}-"))

    @property
    def postgres(self) -> EmbeddedPostgres | None:
        """None when it is not ours to kill."""
        return self.servers.postgres

    @property
    def redis(self) -> EmbeddedRedis | None:
        return self.servers.redis

    def start_servers(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.env |= self.servers.start()

    def start_processes(self) -> None:
        """All at once; ready when this returns."""
        self.start_model()
        self.env.setdefault("AGENT_API_BASE", f"{self.model_address}/v1")
        self.manage("migrate", "--noinput")
        self._start("web", self._web_command())
        for _ in range(self._worker_count):
            self.start_worker(wait=False)
        self._start("ops", procfile_command("ops"))
        self._start("beat", procfile_command("beat"))
        for child in self.children.values():
            self.wait_ready(child)
        for child in self.children.values():
            child.check()

    def start_model(self) -> Child:
        port = str(self._model_port)
        return self._start("model", [sys.executable, "-m", "agents.demo", "--host", "127.0.0.1", "--port", port])

    def start_worker(self, env: Mapping[str, str] | None = None, *, wait: bool = True) -> Child:
        """One more, with settings of its own where a test needs them."""
        name = f"worker-{len(self.workers) + 1}"
        program, *arguments = procfile_command("worker")
        app = ["-A", self._worker_app]
        child = self._start(name, [program, *app, *arguments[len(app) :], "-n", f"{name}@%h"], env)
        if wait:
            self.wait_ready(child)
        return child

    def start_web(self, name: str, env: Mapping[str, str] | None = None, *, app: str = APP) -> str:
        """A further web process; its address."""
        port = free_port()
        command = [app if word == APP else word for word in self._web_command(port)]
        child = self._start(name, command, env)
        wait_for(child, lambda: responds(f"http://127.0.0.1:{port}/readyz"), READY_SECONDS)
        return f"http://127.0.0.1:{port}"

    def restart(self, child: Child) -> None:
        """Start it again, after stopping it in good order if it still runs; ready when this returns."""
        if child.pid is not None:
            child.stop(STOP_SECONDS)
        child.start()
        self.wait_ready(child)

    @contextmanager
    def settings(self, children: Iterable[Child], **env: str) -> Iterator[None]:
        """These processes run with other settings; afterwards they are down, see `resume_all`."""
        before = [(child, child.env) for child in children]
        for child, usual in before:
            child.stop(STOP_SECONDS)
            child.env = {**usual, **env}
            child.start()
        for child, _ in before:
            self.wait_ready(child)
        try:
            yield
        finally:
            for child, usual in before:
                child.kill()
                child.env = usual

    def wait_ready(self, child: Child, seconds: float = READY_SECONDS) -> None:
        """Raises ChildDied or NotReady."""
        wait_for(child, lambda: self._is_ready(child), seconds)

    def manage(self, *arguments: str) -> str:
        """What a `manage.py` command prints; raises CalledProcessError with its complaints as a note."""
        return self._run("manage.py", *arguments)

    def celery(self, *arguments: str) -> str:
        """What the celery CLI prints, as `manage` does."""
        return self._run("-m", "celery", "-A", "config", *arguments)

    def _run(self, *arguments: str) -> str:
        command = [sys.executable, *arguments]
        environment = {**os.environ, **self.env}
        done = subprocess.run(command, cwd=services.PROJECT, env=environment, capture_output=True, text=True)
        try:
            done.check_returncode()
        except subprocess.CalledProcessError as error:
            error.add_note(done.stdout + done.stderr)
            raise
        return done.stdout

    def account(self, username: str | None = None, *, superuser: bool = False) -> Account:
        """A user with a workspace and a token; a new one unless named."""
        username = username or f"user-{uuid4().hex[:8]}"
        flags = ["--superuser"] if superuser else []
        made = self.manage("bootstrap", "--username", username, "--password", f"{username}-pw", *flags)
        fields = json.loads(made.strip().splitlines()[-1])
        return Account(username, f"{username}-pw", fields["workspace_id"], fields["token"])

    def client(self, account: Account | None = None) -> Client:
        """Of the cluster's own user, unless another is given. Close it, or use it in a `with`."""
        if account is None:
            account = self._account = self._account or self.account("alice")
        return Client(self.address, account.token)

    def model_stats(self, **params: str) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.model_address}/stats", params=params, trust_env=False).json()
        return found

    def query(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Rows straight from the database."""
        with psycopg.connect(self.env["DATABASE_URL"], autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def redis_client(self) -> Redis:
        return Redis.from_url(self.env["REDIS_URL"], decode_responses=True)

    def resume_all(self) -> None:
        """Whatever a test left paused goes on; whatever it left dead is started again; all are ready then."""
        self.revive()
        for child in self.children.values():
            self.wait_ready(child)

    def revive(self) -> None:
        """As `resume_all`, without waiting."""
        for server in (self.postgres, self.redis):
            if server is not None:
                server.resume()
                server.start()
        for child in self.children.values():
            child.resume()
            if child.pid is None:
                child.start()

    def tails(self) -> str:
        return "\n\n".join(f"--- {name}: {child.log} ---\n{child.tail()}" for name, child in self.children.items())

    def stop(self) -> None:
        stop_all(self.children.values(), STOP_SECONDS)
        self.servers.stop()

    def _start(self, name: str, command: list[str], env: Mapping[str, str] | None = None) -> Child:
        child = Child(name, command, self.folder / "logs" / f"{name}.log", {**self.env, **(env or {})})
        self.children[name] = child
        child.start()
        return child

    def _web_command(self, port: int | None = None) -> list[str]:
        local = ["--host", "127.0.0.1", "--port", str(port or self._port), "--timeout-graceful-shutdown", "3"]
        return [*procfile_command("web"), *local]

    def _is_ready(self, child: Child) -> bool:
        if child is self.children.get("web"):
            return responds(f"{self.address}/readyz")
        if child is self.children.get("model"):
            return responds(f"{self.model_address}/healthz")
        if child is self.children.get("beat"):
            return child.has_said("beat: Starting...")
        if child.name.startswith("web-"):
            return child.has_said("Application startup complete.")
        return child.has_said(" ready.")


def responds(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
