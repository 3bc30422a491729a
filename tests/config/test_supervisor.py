import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from config.processes import command_of, wait_until
from config.supervisor import (
    AlreadyRunning,
    Child,
    ChildDied,
    Interrupts,
    NotReady,
    Roster,
    procfile_command,
    stop_all,
    wait_for,
)
from tests.timing import in_time

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
POLITE = "import time; print('up', flush=True); time.sleep(60)"


class Cradle:
    """Makes children and sees to it that none outlives its test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.children: list[Child] = []

    def __call__(self, code: str, name: str = "child") -> Child:
        child = Child(name, [sys.executable, "-c", code], self.folder / f"{name}.log")
        self.children.append(child)
        child.start()
        return child


@pytest.fixture
def cradle(tmp_path: Path) -> Iterator[Cradle]:
    cradle = Cradle(tmp_path)
    yield cradle
    for child in cradle.children:
        child.kill()


def test_a_child_is_ready_when_its_log_says_so(cradle: Cradle) -> None:
    child = cradle(POLITE)
    wait_for(child, partial(child.has_said, "up"), 10)
    child.stop(10)
    assert child.how_it_ended() == "SIGTERM"


def test_a_child_that_dies_is_not_waited_for(cradle: Cradle) -> None:
    child = cradle("raise SystemExit('no such thing')")
    with pytest.raises(ChildDied, match="exit code 1"):
        wait_for(child, lambda: False, 60)
    assert "no such thing" in child.tail()


def test_patience_with_a_slow_child_has_an_end(cradle: Cradle) -> None:
    with pytest.raises(NotReady):
        wait_for(cradle(POLITE), lambda: False, 0.1)


def test_a_child_that_ignores_the_request_to_leave_is_killed_and_delays_nobody(cradle: Cradle) -> None:
    stubborn, polite = cradle(STUBBORN, "stubborn"), cradle(POLITE, "polite")
    for child in (stubborn, polite):
        wait_for(child, partial(child.has_said, "up"), 10)
    began = time.monotonic()
    stop_all([stubborn, polite], 0.5)
    in_time(time.monotonic() - began, 5)
    assert (stubborn.how_it_ended(), polite.how_it_ended()) == ("SIGKILL", "SIGTERM")


def test_a_paused_child_can_be_stopped(cradle: Cradle) -> None:
    child = cradle(POLITE)
    child.pause()
    child.stop(10)
    assert child.how_it_ended() == "SIGTERM"


def test_output_is_that_of_the_latest_start_and_the_log_keeps_all(cradle: Cradle) -> None:
    child = cradle(POLITE)
    wait_for(child, partial(child.has_said, "up"), 10)
    child.restart(10)
    wait_for(child, partial(child.has_said, "up"), 10)
    assert child.output().count("up") == 1
    assert child.log.read_text().count("up") == 2


def test_only_one_supervisor_holds_the_roster(tmp_path: Path) -> None:
    first = Roster(tmp_path / "roster")
    with pytest.raises(AlreadyRunning):
        Roster(tmp_path / "roster")
    first.close()
    Roster(tmp_path / "roster").close()


def test_a_successor_ends_the_children_of_a_killed_supervisor(cradle: Cradle, tmp_path: Path) -> None:
    left = cradle(POLITE)
    # Between two programs, in the middle of exec, a process has no command for a moment.
    wait_for(left, partial(left.has_said, "up"), 10)
    killed = Roster(tmp_path / "roster")
    killed.add(left)
    killed.close()

    successor = Roster(tmp_path / "roster")
    successor.end_leftovers()
    # A process loses its command on its way out, before it can be waited for.
    assert left.wait(1)
    assert left.how_it_ended() == "SIGTERM"
    successor.close()


def test_a_pid_that_was_given_out_again_is_left_alone(cradle: Cradle, tmp_path: Path) -> None:
    stranger = cradle(POLITE)
    wait_for(stranger, partial(stranger.has_said, "up"), 10)
    roster = Roster(tmp_path / "roster")
    listed = Child("listed", [sys.executable, "-c", "something else"], stranger.log)
    listed._process = stranger._process
    roster.add(listed)
    roster.end_leftovers()
    assert stranger.pid is not None
    roster.close()


def test_a_zombie_has_no_command() -> None:
    child = Child("zombie", [sys.executable, "-c", ""], Path("/dev/null"))
    child.start()
    assert child._process is not None
    pid = child._process.pid
    assert wait_until(lambda: command_of(pid) == [], 10)
    assert child.wait(1)


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    before = {sig: signal.getsignal(sig) for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    interrupts = Interrupts()
    interrupts.install()
    yield interrupts
    for sig, handler in before.items():
        signal.signal(sig, handler)


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_way_to_say_stop_is_an_interrupt(interrupts: Interrupts, sig: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(sig)


def test_an_interrupt_waits_until_a_child_is_started(interrupts: Interrupts) -> None:
    done = []

    def start() -> None:
        with interrupts.held():
            signal.raise_signal(signal.SIGTERM)
            done.append("started")

    with pytest.raises(KeyboardInterrupt):
        start()
    assert done == ["started"]


def test_on_the_way_out_nothing_interrupts(interrupts: Interrupts) -> None:
    interrupts.ignore()
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("name", ["release", "web", "worker", "ops", "beat"])
def test_every_line_of_the_procfile_is_one_plain_command(name: str) -> None:
    program, *arguments = procfile_command(name)
    assert Path(program).exists()
    assert not set("$&|;<>`") & set("".join(arguments))
