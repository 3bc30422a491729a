"""What a process that the celery CLI starts refuses to be."""

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def test_a_worker_of_forks_does_not_start() -> None:
    command = [sys.executable, "-m", "celery", "-A", "config", "worker", "-Q", "runs", "--pool=prefork"]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "start them with --pool=threads" in ended.stderr
