"""Synchronous tools on threads of their own, which can be left behind but are never waited for."""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

_abandoned: set[threading.Thread] = set()


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Outcome(Generic[T]):
    """A value rather than a future's exception: futures refuse StopIteration, and SystemExit would end the loop."""

    value: T | None = None
    error: BaseException | None = None


async def in_thread(function: Callable[[], T]) -> T:
    """Cancellation returns at once and abandons the thread; nothing can interrupt what it does.

    The thread is a fresh daemon: a pool would run out of threads when tools get stuck, and its threads
    are joined when the process exits.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[_Outcome[T]] = loop.create_future()
    context = contextvars.copy_context()

    def work() -> None:
        outcome = _outcome(lambda: context.run(function))
        try:
            loop.call_soon_threadsafe(_settle, ended, outcome)
        except RuntimeError:
            pass  # the loop is closed: the process exits, nobody waits

    thread = threading.Thread(target=work, name="tool", daemon=True)
    thread.start()
    try:
        outcome = await ended
    except asyncio.CancelledError:
        _abandoned.add(thread)
        raise
    if isinstance(outcome.error, Exception):
        raise outcome.error
    if outcome.error is not None:
        raise RuntimeError(f"the tool raised {type(outcome.error).__name__}") from outcome.error
    return cast("T", outcome.value)


def _outcome(function: Callable[[], T]) -> _Outcome[T]:
    try:
        return _Outcome(value=function())
    except BaseException as error:  # a tool's sys.exit() must not take the worker with it
        return _Outcome(error=error)


def _settle(ended: asyncio.Future[_Outcome[T]], outcome: _Outcome[T]) -> None:
    if not ended.done():
        ended.set_result(outcome)


def stuck_threads() -> int:
    """How many abandoned threads are still running."""
    _abandoned.difference_update([thread for thread in _abandoned.copy() if not thread.is_alive()])
    return len(_abandoned)
