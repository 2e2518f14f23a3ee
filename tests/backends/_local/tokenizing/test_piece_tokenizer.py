"""Long texts are tokenized in pieces, up to a limit or a stop."""

from __future__ import annotations

import pytest

from backends._local.tokenizing.bounds import Stopped, bounded
from backends._local.tokenizing.piece_tokenizer import LONG_TOKEN, PIECE, PieceTokenizer
from tests.support.models.byte_tokenizer import ByteTokenizer

TURN = "<|im_start|>"
TEXT = "".join(f"{number} words, " for number in range(5000))


class Library(ByteTokenizer):
    """A tokenizer that notes the lengths of what it was called with."""

    def __init__(self) -> None:
        super().__init__(TURN)
        self.calls: list[int] = []

    def tokenize(self, text: str) -> list[int]:
        self.calls.append(len(text))
        return super().tokenize(text)


class Unknown(Library):
    """One that says nothing of its tokens."""

    def token_texts(self) -> None:  # type: ignore[override]
        pass


@pytest.fixture
def library() -> Library:
    """Make a library."""
    return Library()


@pytest.fixture
def tokenizer(library: Library) -> PieceTokenizer:
    """Make what calls it piece by piece."""
    made = PieceTokenizer(library)
    library.calls.clear()
    return made


def never() -> bool:
    """Do not stop."""
    return False


def test_a_long_text_is_many_calls(library: Library, tokenizer: PieceTokenizer) -> None:
    """Of bounded length, whose tokens are the text's; a short one is one call."""
    assert tokenizer.tokenize(TEXT) == [*map(ord, TEXT)]
    assert max(library.calls) <= PIECE
    assert len(library.calls) <= len(TEXT) / PIECE * 1.1 + 1
    library.calls.clear()
    assert tokenizer.tokenize("") == []
    assert tokenizer.tokenize("a" * PIECE) == [ord("a")] * PIECE
    assert library.calls == [PIECE]


def test_a_run_without_a_split_point_is_divided_anyhow(
    library: Library, tokenizer: PieceTokenizer
) -> None:
    """Or the stack of llama.cpp overflows."""
    assert tokenizer.tokenize("a" * 3 * PIECE) == [ord("a")] * 3 * PIECE
    assert set(library.calls) == {PIECE}


def test_what_was_tokenized_before_is_not_again(
    library: Library, tokenizer: PieceTokenizer
) -> None:
    """When a text goes on, only its end is."""
    tokenizer.tokenize(TEXT)
    count = len(library.calls)
    assert tokenizer.tokenize(TEXT + "more") == [*map(ord, TEXT + "more")]
    assert len(library.calls) == count + 1


def test_no_more_is_tokenized_than_of_interest(library: Library, tokenizer: PieceTokenizer) -> None:
    """One piece more at most; a text of exactly the limit is whole."""
    with bounded(3 * PIECE, never):
        assert len(tokenizer.tokenize("a" * 3 * PIECE)) == 3 * PIECE
        library.calls.clear()
        assert 3 * PIECE < len(tokenizer.tokenize(TEXT)) <= 4 * PIECE
        assert sum(library.calls) <= 4 * PIECE
    assert len(tokenizer.tokenize(TEXT)) == len(TEXT)


def test_a_stop_is_noticed_between_two_pieces(library: Library, tokenizer: PieceTokenizer) -> None:
    """On this thread only, and only within the block."""
    with pytest.raises(Stopped), bounded(10**9, lambda: len(library.calls) == 3):
        tokenizer.tokenize(TEXT)
    assert len(library.calls) == 3
    assert len(tokenizer.tokenize(TEXT)) == len(TEXT)


def test_an_unknown_tokenizer_gets_whole_prompts() -> None:
    """Only what is too long for one is divided."""
    library = Unknown()
    tokenizer = PieceTokenizer(library)
    tokenizer.tokenize(TEXT)
    assert library.calls == [len(TEXT)]
    with bounded(200, never):
        library.calls.clear()
        assert len(tokenizer.tokenize(TEXT[1:])) > 200
        tokenizer.tokenize(TEXT[2 : 2 + 200 * LONG_TOKEN])
        assert library.calls == [200 * LONG_TOKEN] * 2


@pytest.mark.parametrize("kind", [Library, Unknown])
def test_a_chat_is_divided_at_its_turns(kind: type[Library]) -> None:
    """Whatever is known of the tokenizer; no control token is cut."""
    library = kind()
    tokenizer = PieceTokenizer(library)
    chat = "".join(TURN + letter * (PIECE - 50) for letter in "abc") + TURN
    assert tokenizer.tokenize(chat) == library.tokenize(chat)
    library.calls.clear()
    assert tokenizer.tokenize(chat + "d") == [*library.tokenize(chat), ord("d")]
    assert library.calls[0] < PIECE, "the turns before are not tokenized again"


def test_ordinary_text_is_divided_whatever_it_looks_like(tokenizer: PieceTokenizer) -> None:
    """What looks like control tokens is bytes; first texts and others are told apart."""
    text = TURN * PIECE
    for is_first in (True, False):
        assert tokenizer.tokenize_ordinary(text, is_first=is_first) == [*text.encode()]
