"""Owns what both servers have in common: finding the process again, freezing it, ending it."""

import signal
from abc import ABC, abstractmethod
from pathlib import Path

from config.processes import children, send, serves, wait_until

STOP_SECONDS = 10.0


class ServicesError(RuntimeError):
    """A server could not be had; the message is one line that says what to do."""


class Embedded(ABC):
    """One server of ours: its data folder, its process, its address.

    It may have been started by another process: whoever holds the folder finds the server again.
    """

    # What asks it to leave, the second one not taking no for an answer.
    leave, give_up = signal.SIGTERM, signal.SIGKILL

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    @property
    @abstractmethod
    def url(self) -> str:
        """Stays the same over a restart."""

    @abstractmethod
    def start(self) -> None:
        """Return once it answers; does nothing to one that already does. Raises ServicesError."""

    @abstractmethod
    def _pid_file(self) -> Path: ...

    @property
    def pid(self) -> int | None:
        """The server's main process; None when it does not run."""
        try:
            pid = int(self._pid_file().read_text().split(maxsplit=1)[0])
        except (OSError, ValueError, IndexError):
            return None
        return pid if serves(pid, self.folder) else None

    def stop(self) -> None:
        """Shut it down in good order; what does not leave in time is ended."""
        for sig in (self.leave, self.give_up):
            pid = self.pid
            if pid is None:
                return
            self.resume()
            send(pid, sig)
            if wait_until(lambda: self.pid is None, STOP_SECONDS):
                return
        raise ServicesError(f"The server of {self.folder} (process {self.pid}) does not stop.")

    def restart(self) -> None:
        self.stop()
        self.start()

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        pid = self.pid
        if pid is not None:
            send(pid, signal.SIGKILL)
            wait_until(lambda: self.pid is None, STOP_SECONDS)

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, sig: signal.Signals) -> None:
        """To the process and those it forked: each Postgres connection is a process of its own."""
        pid = self.pid
        for each in () if pid is None else (pid, *children(pid)):
            send(each, sig)


def missing(server: str, name: str) -> str:
    return f"No {server}: set {name}, or install the embedded one (pip install '.[embedded]')."
