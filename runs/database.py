"""The way from async code to the database, which is sync: one thread pool a process, transient errors retried."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import stamina
from django.db import InterfaceError, OperationalError, connection

from runs.errors import LeaseLost

T = TypeVar("T")

# The server is away, is restarting, gave up on a lock or a deadlock: the same statement may succeed later. Every verb
# of `runs.lifecycle` is a no-op when it is repeated, so a commit whose answer was lost is no problem either.
TRANSIENT = (OperationalError, InterfaceError)

THREADS = 8
_threads = ThreadPoolExecutor(THREADS, thread_name_prefix="database")


async def in_thread(work: Callable[..., T], *args: Any) -> T:
    """`work(*args)` on a database thread. A cancel does not interrupt it, only the wait for it."""
    return await asyncio.get_running_loop().run_in_executor(_threads, _connected, work, *args)


def _connected(work: Callable[..., T], *args: Any) -> T:
    try:
        result = work(*args)
    except BaseException:
        # A connection that broke stays broken for this thread until somebody closes it.
        connection.close()
        raise
    if "pool" in connection.settings_dict["OPTIONS"]:
        connection.close()  # back into the pool
    return result


async def persistently(
    seconds: float, work: Callable[..., T], *args: Any, on: tuple[type[Exception], ...] = TRANSIENT
) -> T:
    """`in_thread`, repeated with back-off (0.1 s to 2 s) on these errors, for so many seconds at the most.

    LeaseLost is an answer, not an error to be repeated.
    """
    async for attempt in stamina.retry_context(
        on=lambda error: isinstance(error, on) and not isinstance(error, LeaseLost),
        attempts=None,
        timeout=seconds,
        wait_initial=0.1,
        wait_max=2.0,
        wait_jitter=0.1,
    ):
        with attempt:
            return await in_thread(work, *args)
    raise AssertionError("unreachable")


async def unbroken(work: Coroutine[Any, Any, T]) -> T:
    """Awaits a coroutine to its end even when cancelled meanwhile, and only then lets the cancel through."""
    task: asyncio.Task[T] = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
