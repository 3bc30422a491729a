"""Owns the load: lanes that ask for one short run after the other, read each to its end and stop some."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar
from uuid import uuid4

import httpx

from tests.acceptance.client import Client, UnexpectedAnswer
from tests.acceptance.reader import Reader

T = TypeVar("T")

# What a person would not put up with, plus what a fault takes: a request that is refused for so long counts as lost.
PATIENCE_SECONDS = 90.0
MOST_TURNS_OF_A_CHAT = 6


@dataclass(frozen=True)
class Wish:
    """What a turn asks of the scripted model. `breaks`: the provider resets its first answer."""

    text: str
    stop_after: float | None = None
    breaks: bool = False


@dataclass
class Turn:
    """One run of the soak and what its lane saw of it."""

    wish: Wish
    chat_id: str
    run_id: str = field(default_factory=lambda: str(uuid4()))
    key: str = field(default_factory=lambda: uuid4().hex[:12])
    reader: Reader | None = None
    stopped: bool = False
    problem: str = ""


def wish(rng: Random) -> Wish:
    tokens, rate = rng.randint(20, 120), rng.choice((20, 40, 80))
    text = f"tokens:{tokens} rate:{rate} size:{rng.choice((5, 40))}"
    match rng.randrange(10):
        case 0 | 1 | 2 | 3:
            return Wish(text)
        case 4 | 5:
            return Wish(f"calls:calculate,current_time say:5 {text}")
        case 6 | 7:
            return Wish(f"steps:{rng.randint(2, 4)} say:10 {text}")
        case 8:
            return Wish(text, stop_after=rng.uniform(0, 2))
        case _:
            return Wish(f"script:reset after:{rng.randint(0, 5)} times:1 {text}", breaks=True)


class Lane:
    """One person's way through the soak: the turns it took, in chats of a few turns each."""

    def __init__(self, make_client: Callable[[], Client], rng: Random) -> None:
        self.turns: list[Turn] = []
        self._make_client = make_client
        self._rng = rng

    def run(self, wants_more: Callable[[], bool]) -> None:
        with self._make_client() as client:
            while wants_more():
                chat_id = insist(client.chat)
                for _ in range(self._rng.randint(1, MOST_TURNS_OF_A_CHAT)):
                    turn = Turn(wish(self._rng), chat_id)
                    self.turns.append(turn)
                    take(client, turn)
                    if turn.problem or not wants_more():
                        break


def take(client: Client, turn: Turn) -> None:
    """The turn from the POST to the end of its stream; what went wrong on the way becomes its `problem`."""
    try:
        body = {"text": f"{turn.wish.text} key:{turn.key}", "id": turn.run_id, "expect": (200, 202)}
        run = insist(lambda: client.post_run(turn.chat_id, **body))
        turn.reader = client.follow(run, persistent=True)
        if turn.wish.stop_after is not None:
            time.sleep(turn.wish.stop_after)
            answer = insist(lambda: client.stop(turn.run_id))
            turn.stopped = answer["state"] != "already_final"
        read_to_the_end(turn.reader)
    except (AssertionError, httpx.HTTPError) as error:
        turn.problem = f"{type(error).__name__}: {error}"


def insist(ask: Callable[[], T]) -> T:
    """Asks until the service answers, as a client does whose request carries an id of its own."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return ask()
        except (httpx.TransportError, UnexpectedAnswer) as error:
            if not is_passing(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def is_passing(error: Exception) -> bool:
    return not isinstance(error, UnexpectedAnswer) or error.response.status_code == 503


def read_to_the_end(reader: Reader) -> None:
    """A persistent reader comes back by itself after everything but a refusal."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not reader.is_done:
        assert time.monotonic() < deadline, f"no end after {reader.types[-5:]}, {reader.endings[-5:]}"
        if (refusal := reader.refusal) is not None:
            assert refusal.status_code == 503, f"a reader got {refusal.status_code} {refusal.text[:200]}"
            reader.refusal = None
            reader.resume()
        time.sleep(0.05)
