"""Owns the programs of `docs/clients.md`: taken out of it as they stand there, and run."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

from config.processes import wait_until
from config.services import PROJECT
from tests.acceptance.ai_sdk import NODE
from tests.acceptance.client import Client

PAGE = PROJECT / "docs" / "clients.md"
# The language of a block on that page, its file's name, and what runs it.
CLIENTS = {"python": ("ask.py", sys.executable), "javascript": ("ask.mjs", str(NODE))}
# What both print on stdout before the text of a message that begins anew.
ANEW = "\n[once more from the beginning]\n"


def block(language: str) -> str:
    """The one fenced block in that language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return found


def environment(address: str, token: str) -> dict[str, str]:
    """What a program is told, and no more than it needs to start."""
    return {"PATH": os.environ["PATH"], "PERDURE_URL": address, "PERDURE_TOKEN": token}


class Program:
    """One of the two clients, asking what it was told to ask."""

    def __init__(self, language: str, folder: Path, address: str, token: str, text: str) -> None:
        name, interpreter = CLIENTS[language]
        self._stdout, self._stderr = folder / f"{name}.out", folder / f"{name}.err"
        (folder / name).write_text(block(language))
        with self._stdout.open("w") as stdout, self._stderr.open("w") as stderr:
            self._process = subprocess.Popen(
                [interpreter, folder / name, text],
                cwd=folder,
                env=environment(address, token),
                stdout=stdout,
                stderr=stderr,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def printed(self) -> str:
        return self._stdout.read_text(errors="ignore")  # it may be in the middle of a character

    @property
    def said(self) -> str:
        """On stderr."""
        return self._stderr.read_text()

    def wait_text(self, length: int = 1, seconds: float = 30) -> Self:
        assert wait_until(lambda: len(self.printed) >= length, seconds), self.printed + self.said
        return self

    def interrupt(self) -> None:
        """As Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)

    def ended(self, seconds: float = 30) -> str:
        """All it printed, once it has ended well."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {seconds} s: {self.printed[-500:]} {self.said}") from None
        assert code == 0, self.said
        return self.printed


def answer_to(client: Client, text: str) -> tuple[dict, dict]:
    """The one run that this text started, and the message it wrote."""
    (chat,) = client.ask("GET", "/api/chats", params={"q": text.split("key:")[1]})["results"]
    (run,) = client.ask("GET", "/api/runs", params={"chat": chat["id"]})["results"]
    return run, client.message(run)
