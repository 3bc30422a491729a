"""Owns `make demo`: the whole service on this machine, proven to work, until Ctrl-C."""

import json
import logging
import os
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for_future
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections

from chat.models import Token
from config.management.commands.bootstrap import TOKEN_NAME
from config.processes import age, free_port, is_free
from config.selfcheck import SelfCheckFailed, check_service
from config.services import recorded_urls, state_folder
from config.supervisor import (
    AlreadyRunning,
    Child,
    ChildDied,
    Interrupts,
    NotReady,
    Roster,
    procfile_command,
    stop_all,
    wait_for,
)

USER = PASSWORD = "demo"
READY_SECONDS = 60.0
CHECK_SECONDS = 90.0
LOOK_SECONDS = 0.5

TRY = """\
    a message          it answers at once; “think”, “markdown”, “time in Paris” show more
    slow               a long answer: reload the page, open a second window, press stop
    fail, hang         what trouble looks like
"""


class Command(BaseCommand):
    help = "Starts everything on this machine, checks that it works, and prints the address. Ctrl-C ends it all."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--port", type=int, default=int(os.environ.get("PORT") or 8000))

    def handle(self, *args: Any, port: int, **options: Any) -> None:
        self.children: dict[str, Child] = {}
        self.interrupts = Interrupts()
        self.interrupts.install()
        # What commands called from here log would stand between the lines meant for people.
        logging.disable(logging.WARNING)
        try:
            self.start_up(port)
            self.watch()
        except KeyboardInterrupt:
            self.say("\n  Stopping ...")
        except (ChildDied, NotReady, SelfCheckFailed) as error:
            self.report(error)
            sys.exit(1)
        finally:
            self.interrupts.ignore()
            self.take_down()

    def start_up(self, wanted_port: int) -> None:
        self.say(self.style.MIGRATE_HEADING("\n  Perdure\n"))
        self.take_roster()
        self.done("PostgreSQL, Redis", servers_in_use())
        port = self.choose_port(wanted_port)
        address = f"http://127.0.0.1:{port}"
        scripted = self.start_model()
        # Its imports take their time while the database is being prepared; /readyz keeps it from being used too early.
        self.start("web", *local_web_command(port))
        token = self.prepare_database()
        self.start("worker", *procfile_command("worker"))
        wait_for(self.children["web"], lambda: answers(f"{address}/readyz"), READY_SECONDS)
        # Not before: on two cores they would only delay web and worker, which the self-check waits for.
        self.start("ops", *procfile_command("ops"))
        self.start("beat", *procfile_command("beat"))
        self.check_service(address, token, scripted=scripted)
        wait_for(self.children["ops"], partial(self.children["ops"].has_said, " ready."), READY_SECONDS)
        self.done("web, worker, ops, beat", "running")
        self.welcome(address)

    def take_roster(self) -> None:
        state_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self.roster = Roster(state_folder() / "demo.children")
        except AlreadyRunning as error:
            message = (
                "A demo runs here already. For a second one give it a state folder of its own (PERDURE_STATE=...)."
            )
            raise CommandError(message) from error
        self.roster.end_leftovers()
        for log in logs().glob("*.log"):
            log.unlink()

    def choose_port(self, wanted: int) -> int:
        port = next(port for port in range(wanted, 65536) if is_free(port))
        if port != wanted:
            self.say(self.style.WARNING(f"  ! port {wanted} is taken; using {port}"))
        return port

    def start_model(self) -> bool:
        """Whether the scripted demo model plays the model."""
        if os.environ.get("AGENT_MODEL"):
            self.done("model", os.environ["AGENT_MODEL"])
            return False
        port = free_port()
        os.environ |= {
            "AGENT_MODEL": "openai/demo",
            "AGENT_API_BASE": f"http://127.0.0.1:{port}/v1",
            "OPENAI_API_KEY": "demo",
        }
        self.start("model", sys.executable, "-m", "agents.demo", "--host", "127.0.0.1", "--port", str(port))
        self.done("model", "scripted, needs no key")
        return True

    def start(self, name: str, *command: str) -> None:
        child = self.children[name] = Child(name, command, logs() / f"{name}.log")
        with self.interrupts.held():
            child.start()
            self.roster.add(child)

    def prepare_database(self) -> str:
        """The token of the demo's user. Nobody works yet: whatever run is marked as running was left behind."""
        call_command("migrate", interactive=False, verbosity=0, stdout=StringIO())
        call_command("sweep_runs", "--all", stdout=StringIO())
        # Those of earlier demos, each for the one self-check of its own.
        Token.objects.filter(user__username=USER, name=TOKEN_NAME).delete()
        line = StringIO()
        call_command("bootstrap", "--username", USER, "--password", PASSWORD, "--superuser", stdout=line)
        connections.close_all()
        self.done("database", "migrated")
        return str(json.loads(line.getvalue())["token"])

    def check_service(self, address: str, token: str, *, scripted: bool) -> None:
        pool = ThreadPoolExecutor(1)
        check = pool.submit(check_service, address, token)
        pool.shutdown(wait=False)
        try:
            self.await_check(check)
        except SelfCheckFailed as error:
            if scripted:
                raise
            # The provider's own: a wrong key, say. The service is worth having all the same.
            self.say(self.style.WARNING(f"  ! self-check: {error}"))
        else:
            self.done("self-check", "a run finished, a run stopped")

    def await_check(self, check: Future[None]) -> None:
        deadline = time.monotonic() + CHECK_SECONDS
        while not wait_for_future([check], LOOK_SECONDS).done:
            self.check_children()
            if time.monotonic() > deadline:
                raise NotReady(f"The self-check is not through after {CHECK_SECONDS:.0f} s; see {shown(logs())}.")
        check.result()

    def welcome(self, address: str) -> None:
        self.say(f"\n  Open    {self.style.SUCCESS(address)}    log in as {USER} / {PASSWORD}")
        self.say(f"  Try\n{TRY.rstrip()}")
        self.say(f"  Data    {shown(state_folder())}    logs in {shown(logs())}")
        self.say(f"\n  Ready in {age():.1f} s. Ctrl-C stops everything.\n")

    def watch(self) -> None:
        while True:
            self.check_children()
            time.sleep(LOOK_SECONDS)

    def check_children(self) -> None:
        for child in self.children.values():
            child.check()

    def report(self, error: Exception) -> None:
        self.say(self.style.ERROR(f"\n  {error}"))
        if isinstance(error, ChildDied):
            self.say(f"  The end of {shown(error.child.log)}:\n{error.child.tail()}\n")

    def take_down(self) -> None:
        """Doors first, then the workers, which hand their runs back, then what those need."""
        for names, seconds in ((("web", "beat"), 5.0), (("worker", "ops"), 8.0), (("model",), 3.0)):
            stop_all([self.children[name] for name in names if name in self.children], seconds)

    def done(self, what: str, how: str) -> None:
        self.say(f"  {self.style.SUCCESS('✓')} {what:<24}{how}")

    def say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()


def logs() -> Path:
    return state_folder() / "logs"


def shown(path: Path) -> str:
    near = os.path.relpath(path)
    return str(path) if near.startswith("..") else near


def servers_in_use() -> str:
    ours = recorded_urls() or ()
    kinds = {"embedded" if os.environ.get(name) in ours else "yours" for name in ("DATABASE_URL", "REDIS_URL")}
    return " and ".join(sorted(kinds))


def local_web_command(port: int) -> list[str]:
    """Of an option given twice the last counts. No stranger gets in with demo / demo; Ctrl-C waits for no browser."""
    local = ["--host", "127.0.0.1", "--port", str(port), "--timeout-graceful-shutdown", "2"]
    return [*procfile_command("web"), *local]


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
