"""Progress: a bar on a terminal, a line per tenth elsewhere, and nothing of what is soon over."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest

from kuwa_min import progress as module
from kuwa_min.progress import Progress, step_logger

TOTAL = 1000
CLEARED = "\r\x1b[K"


@pytest.fixture(autouse=True)
def _frozen_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the clock: only the start of a task is moved."""
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: 5000.0))


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def begun(stream: io.StringIO, seconds: float) -> Progress:
    """Return the progress of a task that began `seconds` ago."""
    progress = Progress("unpacking", stream)
    progress.started -= seconds
    return progress


def bar(full: int, percent: int, left: int | None = None) -> str:
    """Return one drawing of the bar."""
    line = f"[{'#' * full}{'.' * (30 - full)}] {percent:3d} %"
    return f"{CLEARED}unpacking {line}" + ("" if left is None else f", {left} s left")


BARS = (
    (0, 10, bar(0, 0)),  # no estimate yet
    (1, 0, bar(0, 0, 0)),
    (250, 10, bar(7, 25, 30)),
    (500, 10, bar(15, 50, 10)),
    (999, 0, bar(29, 99, 0)),
    (TOTAL, 10, CLEARED),  # what is done needs no bar
)


@pytest.mark.parametrize(("done", "seconds", "shown"), BARS)
def test_a_terminal_gets_a_bar_and_the_time_that_is_left(
    done: int, seconds: float, shown: str
) -> None:
    """Half in ten seconds means ten more."""
    stream = Terminal()
    begun(stream, seconds)(done, TOTAL)
    assert stream.getvalue() == shown


def test_the_bar_is_drawn_once_in_a_redraw_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unpacking 20,000 files does not wait for the terminal."""
    monkeypatch.setattr(module, "REDRAW", 60.0)
    stream = Terminal()
    progress = begun(stream, 10)
    for done in range(100):
        progress(done, TOTAL)
    assert stream.getvalue() == bar(0, 0)


def test_the_end_clears_the_bar_and_tells_the_seconds() -> None:
    """The next line begins where the bar stood."""
    stream = Terminal()
    assert 5 <= begun(stream, 5).end() < 10
    assert stream.getvalue() == CLEARED


def test_elsewhere_every_tenth_is_a_line() -> None:
    """Once each, whatever the number of steps, and without a control character."""
    stream = io.StringIO()
    progress = begun(stream, 2)
    for done in range(1, TOTAL + 1):
        progress(done, TOTAL)
    assert 2 <= progress.end() < 10
    assert stream.getvalue() == "".join(f"unpacking: {tenth} %\n" for tenth in range(10, 101, 10))


def test_tenths_that_pass_at_once_are_one_line() -> None:
    """A large file may be half of all."""
    stream = io.StringIO()
    progress = begun(stream, 2)
    for done in (99, 550, 560):
        progress(done, TOTAL)
    assert stream.getvalue() == "unpacking: 50 %\n"


def test_it_can_be_asked_for_its_numbers() -> None:
    """Before the first step, on the way, and beyond what was foreseen."""
    progress = begun(io.StringIO(), 10)
    assert (progress.done, progress.total, progress.percent()) == (0, 0, 0)
    assert progress.seconds_left() is None
    progress(200, TOTAL)
    assert (progress.done, progress.total, progress.percent()) == (200, TOTAL, 20)
    assert progress.seconds_left() == pytest.approx(40, abs=1)
    progress(TOTAL + 1, TOTAL)
    assert (progress.percent(), progress.seconds_left()) == (100, 0)


def test_a_terminal_that_was_closed_does_not_stop_the_task() -> None:
    """Close it between two steps."""
    stream = Terminal()
    progress = begun(stream, 10)
    stream.close()
    progress(1, TOTAL)
    assert progress.end() >= 10
    assert progress.done == 1


def test_tenths_can_go_elsewhere() -> None:
    """The log wants them in lines of its own form."""
    seen: list[int] = []
    stream = io.StringIO()
    progress = Progress("loading", stream, at_tenth=lambda one: seen.append(one.percent()))
    progress.started -= 2
    for done in range(1, 9):
        progress(done, 8)
    assert seen == [12, 25, 37, 50, 62, 75, 87, 100]
    assert stream.getvalue() == ""


def test_a_bar_beyond_its_end_is_cleared() -> None:
    """A folder may hold more than was counted."""
    stream = Terminal()
    begun(stream, 10)(2 * TOTAL, TOTAL)
    assert stream.getvalue() == CLEARED


def test_the_clock_starts_when_nothing_is_done() -> None:
    """What comes before the first step, like importing a library, says nothing of its speed."""
    progress = begun(Terminal(), 1000)
    progress(0, TOTAL)
    progress(TOTAL // 2, TOTAL)
    left = progress.seconds_left()
    assert left is not None
    assert left < 100


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["a pipe", "a terminal"])
def test_of_nothing_to_do_nothing_goes_wrong(stream: io.StringIO) -> None:
    """An empty payload has 0 bytes."""
    begun(stream, 2)(0, 0)
    assert "1" not in stream.getvalue()


def test_what_is_soon_over_says_nothing() -> None:
    """A log has no use for it."""
    stream = io.StringIO()
    progress = Progress("unpacking", stream)
    for done in range(TOTAL + 1):
        progress(done, TOTAL)
    progress.end()
    assert stream.getvalue() == ""


def test_it_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output is for what a verb prints."""
    progress = Progress("unpacking")
    progress.started -= 2
    progress(TOTAL, TOTAL)
    assert tuple(capsys.readouterr()) == ("", "unpacking: 100 %\n")


def test_a_line_on_the_start_names_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    """On standard error."""
    step_logger("kuwa-some.pyz")("starting again")
    assert tuple(capsys.readouterr()) == ("", "kuwa-some.pyz: starting again\n")
