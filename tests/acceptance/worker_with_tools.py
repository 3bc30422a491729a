"""`celery -A tests.acceptance.worker_with_tools worker`: a worker whose agent also has tools that behave badly."""

import time
from pathlib import Path
from typing import Any

from celery import signals

from agents.tools import Repeat, Tool, ToolContext, tool
from config.celery import app
from runs.failpoints import failpoint

__all__ = ["app"]


@tool(repeat=Repeat.SAFE)
def append_safe(context: ToolContext, path: str) -> str:
    """Appends its beginning and its end to a file; may be repeated."""
    return _append(context, path, "safe")


@tool(repeat=Repeat.KEYED)
def append_keyed(context: ToolContext, path: str) -> str:
    """Appends its beginning and its end to a file, under its key."""
    return _append(context, path, "keyed")


@tool(repeat=Repeat.ONCE)
def append_once(context: ToolContext, path: str) -> str:
    """Appends its beginning and its end to a file; must not be repeated."""
    return _append(context, path, "once")


def _append(context: ToolContext, path: str, name: str) -> str:
    failpoint("tool_before_effect")
    _write(path, f"{name} begins {context.key}")
    failpoint("tool_in_effect")
    _write(path, f"{name} ends {context.key}")
    failpoint("tool_after_effect")
    return f"{name} is done"


def _write(path: str, line: str) -> None:
    with Path(path).open("a") as file:
        file.write(line + "\n")


@tool(repeat=Repeat.SAFE)
def breakable() -> str:
    """Does nothing, with a failpoint in the middle of it."""
    failpoint("in_tool")
    return "nothing done"


@tool(repeat=Repeat.ONCE, timeout=3600)
async def block_loop(seconds: float) -> str:
    """Waits as no async function may: everything on its loop waits with it."""
    time.sleep(seconds)  # noqa: ASYNC251
    return "the loop was blocked"


@tool(repeat=Repeat.SAFE, timeout=3600)
def block_thread(seconds: float) -> str:
    """Waits on a thread that nothing can interrupt."""
    time.sleep(seconds)
    return "the thread was blocked"


@tool(repeat=Repeat.SAFE, timeout=3600)
async def ignore_cancel(seconds: float) -> str:
    """Waits, and goes on waiting when it is cancelled."""
    import asyncio

    over = time.monotonic() + seconds
    while (left := over - time.monotonic()) > 0:
        try:
            await asyncio.sleep(left)
        except asyncio.CancelledError:
            continue
    return "the cancel was ignored"


TOOLS: tuple[Tool, ...] = (
    append_safe,
    append_keyed,
    append_once,
    breakable,
    block_loop,
    block_thread,
    ignore_cancel,
)


@signals.celeryd_after_setup.connect
def _bring_tools(**_: Any) -> None:
    from runs.tools import TOOLS as OFFERED

    OFFERED.update({one.name: one for one in TOOLS})
