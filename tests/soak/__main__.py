"""`make soak`: hundreds of short agent runs under random faults, the seed of which it prints; exit status 1 if any run
went wrong."""

import argparse
import secrets
import sys
import tempfile
from pathlib import Path

from tests.acceptance.proxied import ProxiedCluster
from tests.soak.soak import Soak, table

# Crashes are what is tested, not the giving up after too many of them.
ENV = {"RUN_MAX_ATTEMPTS": "50"}


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--faults", type=int, default=40)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    options = parser.parse_args()
    say(f"seed {options.seed}")
    with (
        tempfile.TemporaryDirectory(prefix="perdure-soak-", ignore_cleanup_errors=True) as folder,
        ProxiedCluster(Path(folder), workers=3, env=ENV) as cluster,
    ):
        soak = Soak(cluster, options.runs, options.faults, options.seed, say=say)
        verdict = soak.run()
    say(f"\n{table(soak, verdict)}")
    return 0 if verdict.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
