"""The lifecycle feed: who is told what, and what becomes of it when Redis or its reader cannot keep up."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from redis.asyncio.client import PubSub

from chat.models import Chat, Membership
from config.processes import wait_until
from runs import feed, feed_stream, lifecycle, stop, titles
from runs.connections import control
from runs.database import in_thread
from runs.models import Run
from runs.subscription import Subscription
from tests.factories import run_in

pytestmark = pytest.mark.django_db(transaction=True)

Event = tuple[str, Any]


@pytest.fixture(autouse=True)
def _told_at_once(monkeypatch: pytest.MonkeyPatch, redis: Any) -> None:
    """Without the thread, on the connection of whoever changed something."""
    monkeypatch.setattr(feed._announcer, "add", lambda changes: feed._publish(list(changes)))


def made(status: str = "pending") -> Run:
    """With its owner at hand, for code that may not ask the database."""
    run = run_in(status)
    assert run.created_by
    return run


@pytest.fixture
def run() -> Run:
    return made()


class Follower:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self._rest = ""

    async def follow(self, user: Any, *, comes_back: bool) -> None:
        async for piece in feed_stream.events(user, comes_back=comes_back):
            *whole, self._rest = (self._rest + piece.decode()).split("\n\n")
            for block in whole:
                fields = dict(line.partition(": ")[::2] for line in block.split("\n") if line[0] != ":")
                if fields:
                    self.events.append((fields["event"], json.loads(fields.get("data") or "null")))

    async def wait_for(self, wanted: Callable[[list[Event]], bool]) -> None:
        async with asyncio.timeout(5):
            while not wanted(self.events):
                await asyncio.sleep(0.01)

    def has(self, kind: str) -> bool:
        return any(event[0] == kind for event in self.events)

    @property
    def resets(self) -> int:
        return sum(kind == "stream-reset" for kind, _ in self.events)

    @property
    def statuses(self) -> list[str]:
        return [data["status"] for kind, data in self.events if kind == "run"]


@asynccontextmanager
async def following(user: Any, *, comes_back: bool = False) -> AsyncIterator[Follower]:
    """Once the listener of this loop hears."""
    follower = Follower()
    task = asyncio.create_task(follower.follow(user, comes_back=comes_back))
    await follower.wait_for(lambda _: follower.has("stream-open"))
    async with asyncio.timeout(5):
        while feed_stream._ear().silence() is None:
            await asyncio.sleep(0.01)
    yield follower
    task.cancel()


async def test_each_change_of_a_run_is_told_to_whoever_began_it_and_to_nobody_else(run: Run) -> None:
    other = await in_thread(made)
    async with following(run.created_by) as follower, following(other.created_by) as stranger:
        await in_thread(lifecycle.claim, run.pk, 1, uuid4(), "runs@test")
        await in_thread(lifecycle.hand_over, run.pk, 1)
        await in_thread(stop.request_stop, run.pk, run.created_by_id, "user")
        await follower.wait_for(lambda _: len(follower.statuses) == 3)
        assert follower.statuses == ["running", "pending", "aborted"]
        assert follower.events[-1] == (
            "run",
            {
                "id": str(run.pk),
                "chat_id": str(run.chat_id),
                "status": "aborted",
                "step_count": 0,
                "end_reason": "stopped",
            },
        )
        assert not stranger.has("run")


async def test_a_rescue_is_told_of_every_run() -> None:
    run = await in_thread(made, "running")
    async with following(run.created_by) as follower:
        await in_thread(lifecycle.rescue, Run.objects.filter(pk=run.pk), 1)
        await follower.wait_for(lambda _: follower.statuses == ["pending"])


async def test_a_new_title_is_told(run: Run) -> None:
    async with following(run.created_by) as follower:
        await in_thread(lambda: Chat.objects.filter(pk=run.chat_id).update(title=""))
        await in_thread(titles._set, run.chat_id, "On trees")
        await follower.wait_for(lambda _: follower.has("title"))
        assert follower.events[-1] == ("title", {"chat_id": str(run.chat_id), "title": "On trees"})


async def test_who_comes_back_is_told_to_read_again(run: Run) -> None:
    async with following(run.created_by, comes_back=True) as follower:
        await follower.wait_for(lambda _: follower.has("stream-reset"))


async def test_whoever_may_have_missed_something_is_told_to_read_again_and_hears_what_comes_after(run: Run) -> None:
    async with following(run.created_by) as follower:
        await asyncio.sleep(0.1)  # the first one follows before the listener hears, and is told so
        known = follower.resets
        control().execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await follower.wait_for(lambda _: follower.resets > known)
        await in_thread(lifecycle.claim, run.pk, 1, uuid4(), "runs@test")
        await follower.wait_for(lambda _: follower.statuses == ["running"])


async def test_who_cannot_keep_up_is_told_so(run: Run) -> None:
    async with following(run.created_by) as follower:
        for _ in range(100):  # before the follower gets a turn
            feed_stream._pass_on(feed._message(run.created_by_id, "run", feed.told_of(run)).encode())
        await follower.wait_for(lambda _: follower.has("stream-reset"))


@pytest.mark.parametrize(
    "garbage",
    [
        "",
        "{",
        "[]",
        "1",
        '{"user_id": "x"}',
        '{"user_id": 1}',
        "[" * 10_000,
        '{"user_id": 1e999, "event": "run", "data": 1}',
        '{"user_id": USER, "event": "\\ud800", "data": 1}',
        '{"user_id": USER, "event": "stream-error", "data": 1}',
    ],
)
async def test_garbage_is_passed_over(run: Run, garbage: str) -> None:
    async with following(run.created_by) as follower:
        await asyncio.sleep(0.1)  # the first one follows before the listener hears, and is told so
        known = len(follower.events)
        control().publish(feed.CHANNEL, garbage.replace("USER", str(run.created_by_id)))
        await in_thread(lifecycle.claim, run.pk, 1, uuid4(), "runs@test")
        await follower.wait_for(lambda _: follower.statuses == ["running"])
        assert len(follower.events) == known + 1


async def test_who_left_a_workspace_is_told_nothing_of_it(run: Run) -> None:
    await in_thread(Membership.objects.filter(user=run.created_by).delete)
    async with following(run.created_by) as follower:
        await in_thread(lifecycle.claim, run.pk, 1, uuid4(), "runs@test")
        await in_thread(titles._set, run.chat_id, "On trees")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await follower.wait_for(lambda _: follower.has("run") or follower.has("title"))


async def test_nobody_is_told_to_read_again_before_the_listener_hears(monkeypatch: pytest.MonkeyPatch) -> None:
    subscribe, told = PubSub.subscribe, asyncio.Event()

    async def subscribe_slowly(self: PubSub, *channels: str) -> Any:
        await self.connect()
        control().execute_command("CLIENT", "PAUSE", "800", "ALL")
        return await subscribe(self, *channels)

    async def tell() -> None:
        told.set()

    monkeypatch.setattr(PubSub, "subscribe", subscribe_slowly)
    task = asyncio.create_task(Subscription("slow", "test", lambda _: None, tell).run())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(told.wait(), 0.4)
    await asyncio.wait_for(told.wait(), 5)
    task.cancel()


async def test_a_feed_ends_in_time_so_that_its_follower_proves_again_who_it_is(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_stream, "LONGEST_SECONDS", 0.0)
    async with asyncio.timeout(5):
        await Follower().follow(run.created_by, comes_back=False)


def test_the_thread_tells_what_was_committed_and_what_it_cannot_tell_is_said_to_be_lost(
    monkeypatch: pytest.MonkeyPatch, redis: Any
) -> None:
    told: list[Any] = []

    def publish(changes: list[Any]) -> None:
        connection.close()
        if not told:
            told.append("failed")
            raise ConnectionError
        told.extend(changes)

    monkeypatch.setattr(feed, "_publish", publish)
    first, second = uuid4(), uuid4()
    with redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(feed.CHANNEL)
        announcer = feed.Announcer()
        announcer.add([("run", first)])
        assert wait_until(lambda: bool(told), 5)
        # without another change
        assert wait_until(lambda: (pubsub.get_message() or {}).get("data") == feed.LOST.encode(), 5)
        announcer.add([("run", second)])
        assert wait_until(lambda: len(told) > 1, 5)
        assert pubsub.get_message(timeout=1.5) is None
    assert told == ["failed", ("run", second)]


async def test_whoever_follows_when_some_were_lost_is_told_to_read_again(run: Run) -> None:
    async with following(run.created_by) as follower:
        await asyncio.sleep(0.1)  # the first one follows before the listener hears, and is told so
        known = follower.resets
        control().publish(feed.CHANNEL, feed.LOST)
        await follower.wait_for(lambda _: follower.resets > known)


def test_no_more_wait_than_there_is_room_for() -> None:
    announcer = feed.Announcer()
    announcer._thread = object()  # type: ignore[assignment]
    announcer.add([("run", uuid4())] * feed.MOST_WAITING)
    assert (len(announcer._waiting), announcer._has_lost_some) == (feed.MOST_WAITING, False)
    announcer.add([("run", uuid4())])
    assert (announcer._waiting, announcer._has_lost_some) == ([], True)
