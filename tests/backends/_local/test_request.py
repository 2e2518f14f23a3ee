"""A request: its text in pieces, its ends, and the notes on its answer."""

from __future__ import annotations

import time

import pytest

from backends._local.request import EMIT_INTERVAL, Request
from kuwa_min.chat.sentence import Sentence
from kuwa_min.chat.side_notes import SIDE_NOTE

NOTE = Sentence("A note.", "附註。")


class Clock:
    """A clock that goes by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Stop the clock."""
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def test_a_new_request_has_begun_nothing() -> None:
    """It has what it was made of."""
    inputs = object()
    one = Request([1, 2], {"top_k": 3}, stop_token_ids=[7, 7], model_inputs=inputs)
    assert one.stop_token_ids == {7}
    assert Request([1], {}).stop_token_ids == set()
    assert (one.prompt_ids, one.options, one.model_inputs) == ([1, 2], {"top_k": 3}, inputs)
    assert (one.cached_tokens, one.completion_tokens) == (0, 0)
    assert (one.emit_interval, one.side_notes, one.prompt_note) == (EMIT_INTERVAL, [], "")
    flags = [one.started, one.cancelled, one.finished, one.drained, one.timed_out, one.should_stop]
    assert flags == [False] * 6


def test_text_is_handed_over_at_most_once_an_interval(clock: Clock) -> None:
    """The first piece at once, then what has come in an interval, at the end the rest."""
    one = Request([1], {})
    one.emit_interval = 0.25
    one.emit("")  # nothing to hand over
    one.emit("a")
    assert one.next_text(0) == "a"
    clock.now += 0.125
    one.emit("b")
    assert one.next_text(0) == ""
    clock.now += 0.125
    one.emit("c")
    assert one.next_text(0) == "bc"
    one.emit("d")
    one.finish()
    assert one.next_text(0) == "d"
    assert one.drained is True


def test_text_can_be_handed_over_before_its_time(clock: Clock) -> None:
    """Before a step that may take long; nothing is nothing."""
    one = Request([1], {})
    one.emit("a")
    one.emit("b")
    one.flush()
    one.flush()
    assert one.next_text(0) == "ab"
    one.finish()
    assert one.next_text(0) == ""
    assert one.drained is True


def test_what_waits_is_read_at_once() -> None:
    """A reader that was slow is not behind for long, and is not told of an end too early."""
    one = Request([1], {})
    for letter in "abc":
        one.emit(letter)
        one.flush()
    assert one.next_text() == "abc"
    assert one.drained is False
    one.emit("d")
    one.finish()
    assert one.next_text() == "d"
    assert one.drained is True


def test_an_error_comes_after_the_text_and_stays() -> None:
    """A reader that goes on gets it again."""
    one = Request([1], {})
    one.emit("a")
    one.finish(LookupError("the middle"))
    assert one.next_text(0) == "a"
    assert one.drained is False
    for _ in range(2):
        with pytest.raises(LookupError, match=r"^the middle$"):
            one.next_text(0)
        assert one.drained is True


def test_a_request_is_finished_once() -> None:
    """Text and error of the first end count."""
    one = Request([1], {})
    one.finish()
    one.finish(LookupError("too late"))
    assert one.finished is True
    assert one.next_text(0) == ""
    assert one.drained is True
    assert one.next_text(0) == ""


def test_cancelling_wakes_reader_and_engine() -> None:
    """On the thread that cancels; a side note would not be read."""
    one, calls = Request([1], {}), []
    one.on_cancel = lambda: calls.append("woken")
    one.cancel()
    assert calls == ["woken"]
    assert (one.cancelled, one.should_stop) == (True, True)
    assert one.next_text() == ""
    assert one.drained is True
    one.add_side_note(NOTE)
    assert one.side_notes == []


def test_a_request_can_be_cancelled_though_nothing_waits_for_that() -> None:
    """Its scheduler sees it at the next step."""
    one = Request([1], {})
    one.cancel()
    assert one.should_stop is True


def test_a_note_stands_apart_from_the_text() -> None:
    """As the front end shows it."""
    one = Request([1], {})
    one.add_side_note(NOTE)
    assert one.side_notes == [SIDE_NOTE.format(NOTE)]


def test_a_stop_word_ends_an_answer_without_what_follows() -> None:
    """Nor a note."""
    one = Request([1], {}, stop=["END"])
    one.emit("text EN")
    assert one.should_stop is False
    one.emit("D more")
    assert one.should_stop is True
    one.add_side_note(NOTE)
    one.finish()
    assert (one.next_text(), one.side_notes) == ("text ", [])


def test_markup_is_seen_by_stop_words_and_not_shown() -> None:
    """Text that waits to be handed over stays."""
    one = Request([1], {}, stop=["!<|end|>"])
    one.emit_interval = 99.0
    one.emit("a")
    one.emit("b")
    one.emit_hidden("<|other|>")
    one.emit("c!")
    assert one.should_stop is False
    one.emit_hidden("<|end|>")
    assert one.should_stop is True
    one.finish()
    assert one.next_text() == "abc"


def test_the_beginning_of_a_stop_word_is_text_at_the_end() -> None:
    """It did not come whole."""
    one = Request([1], {}, stop=["END"])
    one.emit("text EN")
    one.finish()
    assert one.next_text() == "text EN"


def test_the_time_counts_from_the_start(clock: Clock) -> None:
    """It is over once more than the timeout has gone by; the note names it."""
    one = Request([1], {}, timeout=2.5)
    clock.now += 99
    assert one.timed_out is False
    one.start()
    assert one.started is True
    clock.now += 2.5
    assert (one.timed_out, one.should_stop) == (False, False)
    clock.now += 0.01
    assert (one.timed_out, one.should_stop) == (True, True)
    one.finish()
    assert "longer than 2.5 s" in "".join(one.side_notes)


def test_an_error_says_more_than_a_timeout(clock: Clock) -> None:
    """One of both is enough."""
    one = Request([1], {}, timeout=1)
    one.start()
    clock.now += 2
    one.finish(LookupError("the middle"))
    assert one.side_notes == []


@pytest.mark.parametrize("timeout", [None, 0])
def test_without_a_timeout_an_answer_may_take_forever(clock: Clock, timeout: float | None) -> None:
    """As --timeout says it."""
    one = Request([1], {}, timeout=timeout)
    one.start()
    clock.now += 1e9
    assert one.timed_out is False
    one.finish()
    assert one.side_notes == []
