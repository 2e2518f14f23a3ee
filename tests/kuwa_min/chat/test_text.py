"""Text in pieces: characters and stop words stay whole, however the pieces are cut."""

from __future__ import annotations

import random

import pytest

from kuwa_min.chat.text import StopWords, Utf8Decoder

TEXT = "naïve 世界 🙂 end"


def cut(text: str, words: list[str], sizes: list[int]) -> tuple[str, bool]:
    """Feed a text in pieces of these sizes, again and again; return what is shown, and the hit."""
    stop, shown, rest, turn = StopWords(words), "", text, 0
    while rest and not stop.hit:
        size = sizes[turn % len(sizes)]
        shown, rest, turn = shown + stop.feed(rest[:size]), rest[size:], turn + 1
    return shown + stop.finish(), stop.hit


# -- characters


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 100])
def test_a_character_comes_when_it_is_whole(size: int) -> None:
    """However the bytes are cut, every piece is whole characters and nothing is lost."""
    decoder, data = Utf8Decoder(), TEXT.encode()
    pieces = [decoder.feed(data[at : at + size]) for at in range(0, len(data), size)]
    assert "".join(pieces) == TEXT
    assert not any("\ufffd" in piece for piece in pieces)


def test_half_a_character_waits() -> None:
    """It is shown with its last byte, and not at all if that never comes."""
    decoder = Utf8Decoder()
    first, second, third = "世".encode()[:1], "世".encode()[1:2], "世".encode()[2:]
    assert [decoder.feed(part) for part in (first, second, third)] == ["", "", "世"]
    assert decoder.feed(b"ok" + first) == "ok"


def test_bytes_that_are_no_text_are_replaced() -> None:
    """The text goes on behind them."""
    decoder = Utf8Decoder()
    assert decoder.feed(b"a\xffb") == "a\ufffdb"
    assert decoder.feed("世".encode()[:2]) == ""
    assert decoder.feed(b"c") == "\ufffdc"


# -- stop words


@pytest.mark.parametrize(
    ("text", "words", "shown"),
    [
        ("one two three", ["two"], "one "),
        ("one two three", ["three", "two"], "one "),
        ("one two three", ["one"], ""),
        ("one two three", ["three"], "one two "),
        ("one two three", ["four", "threes"], None),
        ("one two three", [], None),
        ("one two three", [""], None),
        ("</s", ["</s>"], None),
        ("a</s>b", ["</s>"], "a"),
        ("aab", ["ab"], "a"),
        ("aaab", ["aab"], "a"),
        ("abababc", ["ababc"], "ab"),
        ("世界和平", ["和"], "世界"),
        ("x###y", ["##", "###"], "x"),
        ("xuser:y", ["user:", "xu"], ""),
        ("\nUser: hi", ["\nUser:"], ""),
    ],
)
def test_the_text_ends_before_the_first_stop_word(
    text: str, words: list[str], shown: str | None
) -> None:
    """However the text is cut into pieces; without a stop word it is whole."""
    hit = shown is not None
    for sizes in ([1], [2], [3], [100], [1, 3, 2]):
        assert cut(text, words, sizes) == (shown if hit else text, hit), sizes


def test_no_piece_holds_a_fragment_of_a_stop_word() -> None:
    """What may become one waits; what did not become one comes with the next piece."""
    stop = StopWords(["STOP"])
    assert [stop.feed(piece) for piece in ("go ", "S", "T", "x", "ST", "OP", "more")] == [
        "go ",
        "",
        "",
        "STx",
        "",
        "",
        "",
    ]
    assert stop.hit
    assert stop.finish() == ""


def test_only_the_end_that_may_become_a_stop_word_is_held_back() -> None:
    """The rest is shown at once."""
    stop = StopWords(["\n\nUser:"])
    assert stop.feed("a long text\n") == "a long text"
    assert stop.feed("b") == "\nb"
    assert stop.finish() == ""


def test_many_random_texts_are_cut_like_whole_ones() -> None:
    """Pieces make no difference."""
    rng = random.Random(1)
    for _ in range(2000):
        text = "".join(rng.choices("ab", k=rng.randint(0, 12)))
        words = ["".join(rng.choices("ab", k=rng.randint(1, 4))) for _ in range(2)]
        found = [place for place in map(text.find, words) if place >= 0]
        shown, hit = cut(text, words, [rng.randint(1, 3) for _ in range(3)])
        assert hit == bool(found)
        if not hit:
            assert shown == text
        else:
            assert text.startswith(shown)
            assert not any(word in shown for word in words)


# -- hidden text: the markup of special tokens


def marked(parts: list[str], words: list[str]) -> tuple[str, bool]:
    """Feed parts, those that begin with < hidden; return what is shown, and the hit."""
    stop, shown = StopWords(words), ""
    for part in parts:
        shown += stop.feed(part, hidden=part.startswith("<"))
    return shown + stop.finish(), stop.hit


@pytest.mark.parametrize(
    ("parts", "words", "shown", "hit"),
    [
        (["a", "<end>", "b"], [], "ab", False),
        (["a", "<end>", "b"], ["x"], "ab", False),
        (["a", "<end>", "b"], ["<end>"], "a", True),
        (["a", "x", "<end>", "b"], ["x<end>"], "a", True),
        (["ax", "<end>", "y", "b"], ["x<end>y"], "a", True),
        (["ax", "<end>", "z", "b"], ["x<end>y"], "axzb", False),
        (["a", "<s>", "<end>", "b"], ["<s><end>"], "a", True),
        (["a", "<s>", "<e>", "<s>", "<end>"], ["<s><end>"], "a", True),
        (["a", "<en", "<end>"], ["<end>"], "a", True),
        (["a", "b<end>"], ["<end>"], "ab", True),  # spelled out with ordinary tokens
        (["a", "x", "<end>"], ["x<end>y"], "ax", False),
        (["a", "x", "<end>", "y", "b"], ["xy"], "a", True),  # what is shown has it
        (["a", "<s>", "x", "<s>", "<s>", "y"], ["xy"], "a", True),
        (["ax", "<end>", "yz"], ["xy", "x<end>"], "a", True),
        (["a", "<s>", "x", "<end>"], ["xy", "<end>"], "ax", True),
        (["a", "<s>", "x"], ["xy"], "ax", False),
        (["ax", "<s>", "y", "<s>", "z"], ["xyy", "xyz", "<s>z<"], "a", True),
        (["ax", "<s>", "y"], ["xy", "x<s>yz"], "a", True),
    ],
)
def test_stop_words_may_contain_markup_that_is_never_shown(
    parts: list[str], words: list[str], shown: str, hit: bool
) -> None:
    """Also across the border of shown and hidden text."""
    assert marked(parts, words) == (shown, hit)
