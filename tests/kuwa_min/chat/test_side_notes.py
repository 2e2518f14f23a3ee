"""Side notes are told from text wherever an answer is cut, and come as one block."""

from __future__ import annotations

import itertools
import random

import pytest

from kuwa_min.chat.side_notes import LONGEST_OPEN, NOTE_BEGIN, NOTE_END, SideNoteGate, tag_overlap

N1, N2 = f"{NOTE_BEGIN}one{NOTE_END}", f"{NOTE_BEGIN}two\nlines{NOTE_END}"
ANSWERS = [
    ("plain", "plain", ""),
    ("a < b << c <<< d", "a < b << c <<< d", ""),
    ("<b>bold</b> <", "<b>bold</b> <", ""),
    ("<", "<", ""),
    ("x<<<WARNING>>", "x<<<WARNING>>", ""),
    (f"Hi {N1} end", "Hi  end", "one"),
    (f"{N1}main", "main", "one"),
    (N1, "", "one"),
    (f"a{N1}{N2}b", "ab", "one\ntwo\nlines"),
    (f"a\n{N1}\nb\n{N2}\n", "a\n\nb\n\n", "one\ntwo\nlines"),
    (f"a<{N1}", "a<", "one"),
    (f"a<<{N1}<b", "a<<<b", "one"),
    (f"a{NOTE_BEGIN}never closed", "a", "never closed"),
    (f"a{NOTE_BEGIN} \n {NOTE_END}b", "ab", ""),
    (f"a{NOTE_BEGIN}x{NOTE_BEGIN}y{NOTE_END}b", "ab", "xy"),
    (f"stray {NOTE_END} end", f"stray {NOTE_END} end", ""),
    ("<<<INFO>>>kept<<</INFO>>>", "<<<INFO>>>kept<<</INFO>>>", ""),
    (f"你好{NOTE_BEGIN}附註😀{NOTE_END}。", "你好。", "附註😀"),
    (f"{NOTE_BEGIN}a{NOTE_END[:-1]} {NOTE_END}b", "b", f"a{NOTE_END[:-1]}"),
]


def passed(pieces: list[str]) -> tuple[str, str]:
    """Return what a gate makes of these pieces: the text and the notes."""
    gate = SideNoteGate()
    text = "".join(map(gate.feed, pieces))
    gate.close()
    block = gate.block()
    assert not block or (block.startswith(NOTE_BEGIN) and block.endswith(NOTE_END))
    return text + gate.release(), block[len(NOTE_BEGIN) : -len(NOTE_END)]


@pytest.mark.parametrize(("answer", "text", "notes"), ANSWERS)
def test_text_and_notes_are_the_same_wherever_an_answer_is_cut(
    answer: str, text: str, notes: str
) -> None:
    """Cut it nowhere, everywhere, and at every single position."""
    assert passed([answer]) == passed(list(answer)) == (text, notes)
    for at in range(len(answer)):
        assert passed([answer[:at], answer[at:]]) == (text, notes), at


@pytest.mark.parametrize("seed", range(20))
def test_text_and_notes_are_the_same_for_random_cuts(seed: int) -> None:
    """Join random fragments of tags and text, and cut them anew."""
    rng = random.Random(seed)
    parts = [NOTE_BEGIN, NOTE_END, N1, "<", "<<<", "<<<WARN", ">", "text", "\n", "中"]
    for _ in range(100):
        answer = "".join(rng.choices(parts, k=12))
        cuts = [0, *sorted(rng.choices(range(len(answer) + 1), k=rng.randrange(9))), len(answer)]
        pieces = [answer[a:b] for a, b in itertools.pairwise(cuts)]
        assert passed(pieces) == passed([answer])


def test_text_that_cannot_be_a_tag_passes_at_once() -> None:
    """Only the end that may become the tag waits, with one character before it."""
    gate = SideNoteGate()
    assert gate.feed("Hello <b>") == "Hello <b>"
    assert gate.feed("a <<") == "a"
    assert gate.feed("x") == " <<x"
    assert gate.feed("<") == ""
    assert gate.feed("p>") == "<p>"


def test_a_block_that_grows_beyond_all_notes_was_text() -> None:
    """It is given out without the tag, which would lose it."""
    gate = SideNoteGate()
    assert gate.feed(f"a{NOTE_BEGIN}" + "x" * LONGEST_OPEN) == "a"
    assert gate.feed("yz") == "x" * LONGEST_OPEN + "yz"
    assert gate.feed(N1) == ""
    gate.close()
    assert gate.block() == N1


def test_a_long_note_that_comes_whole_is_a_note() -> None:
    """As a model that thinks for long makes it."""
    assert passed([NOTE_BEGIN + "x" * 3 * LONGEST_OPEN + NOTE_END]) == ("", "x" * 3 * LONGEST_OPEN)


def test_notes_that_stand_in_no_text_come_last() -> None:
    """As the one about an executor that stops."""
    gate = SideNoteGate()
    gate.add("stopped")
    gate.add("")
    gate.feed(f"{NOTE_BEGIN}open")
    gate.close()
    assert gate.block() == f"{NOTE_BEGIN}stopped\nopen{NOTE_END}"


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 0), ("a", 0), ("<", 1), ("<<<<", 3), ("<<<WARNING>>", 12), ("<<<WARNING>>>", 0)],
)
def test_the_beginning_of_a_tag_is_measured(text: str, count: int) -> None:
    """Count the characters at the end that may belong to it."""
    assert tag_overlap(text) == count
