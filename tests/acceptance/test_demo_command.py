"""`make demo`, as a newcomer meets it."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from config.processes import command_of
from config.services import NAMES, PROJECT

READY = re.compile(r"Ready in [\d.]+ s")


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_the_demo_proves_itself_and_ctrl_c_ends_all_of_it(tmp_path: Path, taken_port: int) -> None:
    unset = {*NAMES, "AGENT_MODEL", "AGENT_API_BASE", "OPENAI_API_KEY"}
    env = {name: value for name, value in os.environ.items() if name not in unset}
    env |= {"PERDURE_STATE": str(tmp_path / "state"), "PYTHONUNBUFFERED": "1", "PORT": str(taken_port)}
    command = [sys.executable, "manage.py", "demo"]
    with subprocess.Popen(command, cwd=PROJECT, env=env, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        lines = []
        for line in demo.stdout:
            lines.append(line)
            if READY.search(line):
                break
        said = "".join(lines)
        assert f"port {taken_port} is taken" in said
        assert "a run finished, a run stopped" in said
        address = re.search(r"Open +(\S+)", said)
        assert address is not None
        assert httpx.get(f"{address[1]}/readyz").status_code == 200

        pids = [int(pid) for pid in re.findall(r"^\[(\d+),", (tmp_path / "state/demo.children").read_text(), re.M)]
        assert len(pids) == 5
        demo.send_signal(signal.SIGINT)
        assert demo.wait(30) == 0
    assert [pid for pid in pids if command_of(pid)] == []
    assert not (tmp_path / "state/services.json").exists()
