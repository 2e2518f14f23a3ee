"""A sequence: prefilled in chunks, then one token after the other, up to its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from backends._local.request import Request
from backends._local.sequence import Sequence

EOS = 0
CONTEXT = 10  # tokens
PROMPT = [5, 6, 7, 8]


class Model:
    """A model whose tokens are letters."""

    context_length = CONTEXT
    eos_token_ids = frozenset([EOS])
    markup: ClassVar[dict[int, str]] = {EOS: "<end>", 25: "<z>"}

    def max_completion_tokens(self, request: Request) -> int:
        """Return the room behind the prompt."""
        return CONTEXT - len(request.prompt_ids)

    def create_detokenizer(self) -> Callable[[int], str]:
        """Return what makes a letter of a token."""
        return lambda token: "" if token in self.markup else chr(ord("a") + token)


def begun(*, cached: int = 0, most: int | None = None, **stop: Any) -> Sequence[None]:
    """Return a sequence that has begun with the prompt."""
    sequence: Sequence[None] = Sequence(3)
    request = Request(PROMPT, {}, **stop)
    sequence.begin(request, Model(), None, cached=cached, max_new_tokens=most)
    return sequence


def text_of(sequence: Sequence[None]) -> str:
    """Return the text of a finished request."""
    text = ""
    while not sequence.request.drained:
        text += sequence.request.next_text()
    return text


def test_a_new_sequence_is_idle_until_it_begins() -> None:
    """It holds nothing, and is the least recently used one."""
    sequence: Sequence[None] = Sequence(3)
    assert (sequence.slot, sequence.tokens, sequence.last_used) == (3, [], 0)
    assert sequence.is_idle is True
    assert begun().is_idle is False


def test_a_prompt_is_prefilled_in_chunks() -> None:
    """From behind what the slot holds already."""
    sequence = begun(cached=1)
    assert sequence.request.cached_tokens == 1
    assert sequence.next_chunk(2) == [6, 7]
    sequence.tokens += [6, 7]
    assert (sequence.remaining, sequence.is_prefilled) == (1, False)
    assert sequence.next_chunk(2) == [8]
    sequence.tokens += [8]
    assert sequence.is_prefilled


def test_an_eos_token_ends_a_completion() -> None:
    """It has no text."""
    sequence = begun()
    assert not sequence.add_token(1)
    assert sequence.add_token(EOS)
    assert text_of(sequence) == "b"
    assert sequence.request.completion_tokens == 2
    assert sequence.request.side_notes == []
    assert sequence.request.finish_reason == "stop"


@pytest.mark.parametrize(("most", "is_noted"), [(None, True), (99, True), (6, False)])
def test_a_full_context_is_noted(most: int | None, is_noted: bool) -> None:
    """But not where the answer was not to be longer."""
    sequence = begun(most=most)
    assert [sequence.add_token(1) for _ in range(6)] == [False] * 5 + [True]
    assert text_of(sequence) == "b" * 6
    notes = "".join(sequence.request.side_notes)
    assert sequence.request.finish_reason == "length"
    assert (f"context of {CONTEXT} tokens is full" in notes) is is_noted


def test_a_completion_is_as_long_as_was_asked_for() -> None:
    """Without a note: it is complete."""
    sequence = begun(most=2)
    assert [sequence.add_token(1) for _ in range(2)] == [False, True]
    assert text_of(sequence) == "bb"
    assert sequence.request.side_notes == []
    assert sequence.request.finish_reason == "length"


def test_a_stop_string_in_the_last_token_ends_the_completion() -> None:
    """It is whole, although it could not have been longer."""
    sequence = begun(most=2, stop=["b"])
    assert sequence.add_token(2) is False
    assert sequence.add_token(1) is True
    assert sequence.request.finish_reason == "stop"


def test_a_request_that_should_stop_ends_with_its_next_token() -> None:
    """Whatever it wanted."""
    sequence = begun()
    sequence.request.cancel()
    assert sequence.add_token(1)


def test_an_emptied_slot_is_prefilled_with_prompt_and_completion() -> None:
    """The token that was sampled last is a part of it."""
    sequence = begun()
    sequence.tokens = list(PROMPT)
    sequence.add_token(1)
    sequence.tokens.append(1)
    sequence.add_token(2)
    sequence.restart_prefill(2)
    assert sequence.next_chunk(99) == [7, 8, 1, 2]


def test_an_idle_sequence_keeps_its_tokens() -> None:
    """The later it was used, the larger last_used."""
    first, second = begun(cached=2), begun()
    first.release()
    second.release()
    assert (first.is_idle, first.tokens) == (True, [5, 6])
    assert 0 < first.last_used < second.last_used


@pytest.mark.parametrize(
    ("stop", "tokens", "text", "ends"),
    [
        ([], [1, 25, 2, EOS], "bc", [False, False, False, True]),
        (["<z>"], [1, 25], "b", [False, True]),
        (["c<z>"], [1, 2, 25], "b", [False, False, True]),
        (["c<z>d"], [1, 2, 25, 2, EOS], "bcc", [False] * 4 + [True]),
        (["c<end>"], [1, 2, EOS], "b", [False, False, True]),
        (["<end>"], [1, EOS], "b", [False, True]),
    ],
)
def test_stop_strings_see_special_tokens(
    stop: list[str], tokens: list[int], text: str, ends: list[bool]
) -> None:
    """Which answers never show."""
    sequence = begun(stop=stop)
    assert [sequence.add_token(token) for token in tokens] == ends
    if not sequence.request.finished:
        sequence.request.finish()
    assert text_of(sequence) == text


def test_a_stop_token_ends_a_completion_as_an_eos_token_does() -> None:
    """An ordinary one is not shown either."""
    sequence = begun(stop_token_ids=[2, 25])
    assert [sequence.add_token(token) for token in (1, 3, 2)] == [False, False, True]
    assert text_of(sequence) == "bd"
    special = begun(stop_token_ids=[2, 25])
    assert [special.add_token(token) for token in (1, 25)] == [False, True]
    assert special.request.completion_tokens == 2
    assert special.request.side_notes == []
