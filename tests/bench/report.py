"""Owns what the bench prints: the machine, the table as it grows, and what went wrong."""

import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from math import ceil
from typing import NamedTuple

import psutil

from tests.bench.installation import Installation

WIDTHS = (60, 22, 14)
PACKAGES = ("django", "celery", "litellm", "uvicorn", "redis", "psycopg")


class Row(NamedTuple):
    """`peer` is what Aegra does, `aim` what we want; both empty where there is nothing to compare."""

    measure: str
    value: str
    peer: str = ""
    aim: str = ""


def say(line: str = "") -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def show(row: Row) -> None:
    say("".join(f"{cell:<{width}}" for cell, width in zip(row, (*WIDTHS, 0), strict=True)).rstrip())


def show_head(cluster: Installation) -> None:
    memory = psutil.virtual_memory()
    packages = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    postgres = cluster.query("SELECT current_setting('server_version'), current_setting('synchronous_commit')")[0]
    with cluster.redis_client() as client:
        redis = client.info("server")["redis_version"]
    say(
        f"Machine: {os.cpu_count()} cores, {memory.total / 2**30:.0f} GiB, {platform.system()} {platform.release()}; "
        f"load before the start {os.getloadavg()[1]:.1f} (5 min)"
    )
    say(f"Versions: Python {platform.python_version()}, PostgreSQL {postgres[0]}, Redis {redis}, {packages}")
    say(f"Servers: {_servers(cluster)}, synchronous_commit {postgres[1]}; 1 web, 2 workers, 1 ops, 1 beat, demo model")
    say("Peer: Aegra 0.11 on Postgres and Redis, on such a machine, not measured here")
    say()
    show(Row("measure", "value", "peer", "aim"))
    show(Row("-" * 7, "-" * 5, "-" * 4, "-" * 3))


def _servers(cluster: Installation) -> str:
    ours = [name for name in ("postgres", "redis") if cluster.roots[name]]
    if len(ours) == 2:
        return "embedded PostgreSQL and Redis, both fresh and durable"
    return "given by the environment and left out of CPU" + (f", except {ours[0]}" if ours else "")


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent do not exceed."""
    return sorted(values)[max(ceil(len(values) * percent / 100) - 1, 0)]


def ms(*seconds: float) -> str:
    """`31 / 43 ms`."""
    return " / ".join(f"{1000 * each:.0f}" if each >= 0.01 else f"{1000 * each:.1f}" for each in seconds) + " ms"
