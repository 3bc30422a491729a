"""The description of the API against the API itself: schemathesis asks the live server whatever the schema allows, and
whatever it forbids, and believes neither."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.cluster import Cluster

FUZZ = Path(__file__).resolve().parent.parent / "fuzz"


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("examples", "seed"), [("15", "1"), pytest.param("200", None, marks=pytest.mark.chaos)], ids=["few", "many"]
)
def test_the_schema_is_true(cluster: Cluster, tmp_path: Path, examples: str, seed: str | None) -> None:
    account = cluster.account()
    options = ["--checks", "all", "--max-examples", examples, "--workers", "2", "--warnings", "off", "--no-color"]
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("schemathesis"), "--config-file", FUZZ / "schemathesis.toml", "run"),
            *(f"{cluster.address}/api/schema", "--header", f"Authorization: Token {account.token}"),
            *(*options, *(("--seed", seed) if seed else ())),
        ],
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": str(FUZZ / "hooks.py")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # and all of it was asked
    assert re.search(r"Tested: (\d+)", done.stdout)[1] == re.search(r"Selected: (\d+)/\1", done.stdout)[1] == "25"
    for phase in ("Examples", "Coverage", "Fuzzing", "Stateful"):
        assert re.search(rf"✅ {phase}", done.stdout), done.stdout
