"""Owns child processes for whoever runs several: how they start, their logs, when they are ready, how they end."""

import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from config.processes import children, command_of, send, wait_until
from config.services import PROJECT

TAIL_LINES = 15
LEFTOVER_SECONDS = 5.0


class ChildDied(RuntimeError):
    """A process that should have stayed ended by itself."""

    def __init__(self, child: "Child") -> None:
        super().__init__(f"{child.name} ended unexpectedly ({child.how_it_ended()}).")
        self.child = child


class NotReady(RuntimeError):
    """A process took longer than it may."""


class Child:
    """One process in a session of its own, so that the terminal's Ctrl-C reaches its owner alone.

    Its output goes to the end of `log`. May be started again after it ended.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self.env = dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """None when it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        assert self.pid is None, f"{self.name} runs already"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self._log_start = output.tell()
            self._process = subprocess.Popen(
                self.command,
                cwd=PROJECT,
                env={**os.environ, **self.env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raises ChildDied."""
        if self.pid is None:
            raise ChildDied(self)

    def output(self) -> str:
        """What it wrote since it was last started."""
        with suppress(FileNotFoundError), self.log.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")
        return ""

    def has_said(self, text: str) -> bool:
        return text in self.output()

    def tail(self) -> str:
        return "\n".join(self.output().splitlines()[-TAIL_LINES:])

    def how_it_ended(self) -> str:
        code = None if self._process is None else self._process.poll()
        if code is None:
            return "never started" if self._process is None else "still running"
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def terminate(self) -> None:
        """Ask it to leave, without waiting."""
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, to all that belongs to it, and wait for the end."""
        if self.pid is not None:
            for pid in children(self.pid):
                send(pid, signal.SIGKILL)
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def pause(self) -> None:
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def signal(self, sig: signal.Signals) -> None:
        """To its whole group; nothing when it has ended."""
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, sig)

    def wait(self, seconds: float) -> bool:
        """Whether it ended in time."""
        return wait_until(lambda: self.pid is None, seconds)

    def stop(self, seconds: float) -> None:
        stop_all([self], seconds)

    def restart(self, seconds: float) -> None:
        self.stop(seconds)
        self.start()


def stop_all(leaving: Iterable[Child], seconds: float) -> None:
    """SIGTERM to all at once; those still there after `seconds` are killed."""
    leaving = list(leaving)
    for child in leaving:
        child.resume()
        child.terminate()
    deadline = time.monotonic() + seconds
    for child in leaving:
        if not child.wait(max(0.0, deadline - time.monotonic())):
            child.kill()


def wait_for(child: Child, ready: Callable[[], bool], seconds: float) -> None:
    """Return once it is ready. Raises ChildDied or NotReady."""
    deadline = time.monotonic() + seconds
    while not ready():
        child.check()
        if time.monotonic() > deadline:
            raise NotReady(f"{child.name} is not ready after {seconds:.0f} s; see {child.log}.")
        time.sleep(0.05)


def procfile_command(name: str) -> list[str]:
    """The Procfile's line of that name, its program taken from the virtual environment we run in."""
    lines = dict(line.split(": ", 1) for line in (PROJECT / "Procfile").read_text().splitlines() if line)
    program, *arguments = shlex.split(lines[name])
    return [*([sys.executable] if program == "python" else [str(Path(sys.executable).parent / program)]), *arguments]


class AlreadyRunning(RuntimeError):
    """Another supervisor holds the roster."""


class Roster:
    """The list of a supervisor's children in a file, for its successor: whoever was killed left them running."""

    def __init__(self, path: Path) -> None:
        """Held until it is closed, or this process ends. Raises AlreadyRunning."""
        self._file = path.open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise AlreadyRunning from error

    def close(self) -> None:
        self._file.close()

    def end_leftovers(self) -> None:
        self._file.seek(0)
        left = [pid for pid, command in map(json.loads, self._file) if command_of(pid)[-len(command) :] == command]
        for sig in (signal.SIGTERM, signal.SIGKILL):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.killpg(pid, sig)
            wait_until(lambda: not any(map(command_of, left)), LEFTOVER_SECONDS)
        self._file.truncate(0)

    def add(self, child: Child) -> None:
        # Without the program: a script's shows up behind its interpreter.
        self._file.write(json.dumps([child.pid, child.command[1:]]) + "\n")
        self._file.flush()


class Interrupts:
    """Turns SIGINT, SIGTERM and SIGHUP into KeyboardInterrupt, but never while a child is half-started."""

    def __init__(self) -> None:
        self._held = False
        self._pending = False

    def install(self) -> None:
        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(sig, self._arrive)

    @contextmanager
    def held(self) -> Iterator[None]:
        """What arrives inside is raised at the end."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._pending:
            self._pending = False
            raise KeyboardInterrupt

    def ignore(self) -> None:
        """From now on; for the way out, which is short."""
        self._held = True

    def _arrive(self, *_: object) -> None:
        if self._held:
            self._pending = True
        else:
            raise KeyboardInterrupt
