"""Measurements while nothing else is computed, with a clock of our own."""

from __future__ import annotations

import logging
from collections.abc import Generator

import pytest

from backends._local.machine import idle_measurements
from backends._local.machine.idle_measurements import MAX_RETRY, RETRY, VALID, IdleMeasurements

QUIET = 2.0


class Speeds:
    """A measurement of three pieces; `change` is what it decides."""

    threads = 2

    def __init__(self) -> None:
        self.pieces, self.decisions, self.aborts = 0, 0, 0
        self.change = ""
        self.failure: Exception | None = None

    def measure(self) -> Generator[None, None, None]:
        """Measure, or fail."""
        for _ in range(3):
            self.pieces += 1
            if self.failure:
                raise self.failure
            yield

    def decide(self) -> str:
        """Count it."""
        self.decisions += 1
        return self.change

    def abort(self) -> None:
        """Count it."""
        self.aborts += 1


class Machine:
    """A clock, and whether other programs compute."""

    def __init__(self) -> None:
        self.now, self.is_busy = 100.0, False
        self.speeds = Speeds()
        self.idle = IdleMeasurements(self.speeds, lambda: self.now, lambda threads: self.is_busy)

    def run(self) -> None:
        """Measure, as no chat comes."""
        self.now += self.idle.seconds_left() or 0.0
        self.idle.run(lambda: False)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Return one on which nothing was measured."""
    monkeypatch.setattr(idle_measurements, "QUIET", QUIET)
    return Machine()


def test_nothing_to_measure_is_never_due() -> None:
    """As where generate() computes."""
    idle = IdleMeasurements(None)
    idle.begin_quiet()
    assert idle.seconds_left() is None
    idle.interrupt()


def test_it_is_due_some_time_after_the_last_chat(machine: Machine) -> None:
    """And what was measured well is so for hours."""
    machine.idle.begin_quiet()
    assert machine.idle.seconds_left() == QUIET
    machine.now += QUIET + 1
    assert machine.idle.seconds_left() == 0
    machine.run()
    assert (machine.speeds.pieces, machine.speeds.decisions) == (3, 1)
    assert machine.idle.seconds_left() == VALID
    machine.now += VALID - 1
    machine.idle.begin_quiet()
    assert machine.idle.seconds_left() == QUIET


def test_on_a_busy_machine_nothing_is_decided(machine: Machine) -> None:
    """It is measured again at growing intervals, until the machine is quiet."""
    machine.is_busy = True
    intervals = []
    for _ in range(8):
        machine.run()
        intervals.append(machine.idle.seconds_left())
    assert intervals[:3] == [RETRY, 2 * RETRY, 4 * RETRY]
    assert intervals[-1] == MAX_RETRY
    assert machine.speeds.decisions == 0
    machine.is_busy = False
    machine.run()
    assert (machine.speeds.decisions, machine.idle.seconds_left()) == (1, VALID)
    machine.is_busy = True
    machine.run()
    assert machine.idle.seconds_left() == RETRY


def test_a_chat_ends_it_and_it_begins_anew(machine: Machine) -> None:
    """Whether the chat comes between two pieces or during one; nothing is decided by a part."""
    machine.now += QUIET
    machine.idle.run(lambda: machine.speeds.pieces == 2)
    assert (machine.speeds.pieces, machine.speeds.decisions) == (2, 0)
    assert machine.idle.seconds_left() == QUIET

    def interrupted() -> bool:
        machine.idle.interrupt()
        return False

    machine.idle.run(interrupted)
    assert (machine.speeds.pieces, machine.speeds.aborts, machine.speeds.decisions) == (3, 1, 0)
    machine.idle.interrupt()  # after it: a later chat is not aborted
    assert machine.speeds.aborts == 1
    machine.run()
    assert machine.speeds.decisions == 1


def test_what_is_raised_by_an_abort_is_no_failure(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    """Another error is one, and ends measuring."""
    caplog.set_level(logging.INFO)

    class Aborting(Speeds):
        def measure(self) -> Generator[None, None, None]:
            machine.idle.interrupt()
            raise RuntimeError("aborted")
            yield

    machine.speeds = Aborting()
    machine.idle = IdleMeasurements(machine.speeds, lambda: machine.now, lambda _: False)
    machine.idle.run(lambda: False)
    assert machine.idle.seconds_left() == QUIET
    assert not caplog.messages
    machine.speeds = Speeds()
    machine.speeds.failure = RuntimeError("no such thing")
    machine.idle = IdleMeasurements(machine.speeds, lambda: machine.now, lambda _: False)
    machine.idle.run(lambda: False)
    assert machine.idle.seconds_left() is None
    assert caplog.messages[0].startswith("speeds cannot be measured: RuntimeError at ")


def test_a_change_is_one_line(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    """And the same decision none."""
    caplog.set_level(logging.INFO)
    machine.run()
    assert not caplog.messages
    machine.speeds.change = "threads: 2 instead of 4"
    machine.run()
    assert caplog.messages == ["threads: 2 instead of 4"]
