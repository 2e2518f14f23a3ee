"""A text that is divided at its split points has the tokens of the whole."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from backends._local.templates.chat_template import ChatTemplate
from backends._local.tokenizing.split_points import (
    SplitPoints,
    byte_level_text,
    character_level_text,
    find_split_points,
)
from kuwa_min.packing.wheels.indexed_model import IndexedModel
from tests.support.models import tiny_models
from tests.support.models.real_models import GEMMA3, SMOLLM2, gguf_file, model_folder

ATOMS = (
    *("a", "b", "Word", "the", " ", " ", "  ", "\n", "\n\n", " \n", "\r\n", "\t", "1", "23", "456"),
    *(
        "漢",
        "字",
        "的",
        "文章",
        "。",
        "，",
        "ひらがな",
        "한국",
        "ท",
        "é",
        "e\u0301",
        "=\u0338",
        "😀",
    ),
    *("'", "'s", "_", ".", ",", "!", "(", ")", "<", "|", "im_end", "|>", "/", "▁", "Ġ", "\u00a0"),
)
CUT = 30  # characters of a piece
Tokenize = Callable[[str], list[int]]


def texts(count: int) -> Iterator[str]:
    """Return texts in which anything follows anything."""
    rng = random.Random(1)
    for _ in range(count):
        yield "".join(rng.choice(ATOMS) for _ in range(rng.randint(1, 150)))


def cut(text: str, split_points: SplitPoints) -> list[str]:
    """Return a text's parts, cut at the last split point of each CUT characters."""
    start, parts = 0, []
    while len(text) - start > CUT:
        end = split_points.last(text, start, start + CUT) or len(text)
        parts.append(text[start:end])
        start = end
    return [*parts, text[start:]]


def check(split_points: SplitPoints | None, tokenize: Tokenize, count: int) -> None:
    """Compare the parts' tokens with those of the whole, in many texts."""
    assert split_points
    cuts = 0
    for text in texts(count):
        first, *others = cut(text, split_points)
        behind = (split_points.tokens_behind(tokenize, part) for part in others)
        joined = sum(behind, tokenize(first))
        assert joined == tokenize(text), text
        cuts += len(others)
    assert cuts > count


def greedy(*words: str) -> Tokenize:
    """Return a tokenizer of the longest words, and of single characters."""

    def tokenize(text: str) -> list[int]:
        ids, at = [], 0
        while at < len(text):
            found = next((word for word in words if text.startswith(word, at)), text[at])
            ids.append(hash(found))
            at += len(found)
        return ids

    return tokenize


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("word, word", 4),
        ("a b c", 3),
        ("a\nb", 1),
        ("漢字文", 2),
        ("字。文", 1),
        ("it's", None),  # it may be one word
        ("a_b", None),
        ("aaaa", None),
        ("1234", None),
        ("   ", None),
        ("a", None),
        ("", None),
        ("…a", None),
        ("e\u0301", None),
    ],
)
def test_a_split_point_is_between_a_letter_and_what_ends_a_word(
    text: str, place: int | None
) -> None:
    """Or between Chinese characters; the last one is found."""
    assert SplitPoints([], greedy()).last(text, 0, len(text) - 1) == place


@pytest.mark.parametrize("token", ["d w", "d ", "word w", "<x>d <y>", "\0d "])
def test_a_token_that_spans_a_place_makes_it_none(token: str) -> None:
    """The next one may be."""
    text = "a word wide"
    assert SplitPoints([], greedy()).last(text, 0, 8) == 6
    assert SplitPoints([token], greedy()).last(text, 0, 8) == 1


@pytest.mark.parametrize("token", ["漢字", b"\xa2\xe5".decode("utf-8", "surrogateescape")])
def test_a_token_of_parts_of_characters_spans_a_place_too(token: str) -> None:
    """Byte-level vocabularies have such tokens."""
    assert "漢字".encode() == b"\xe6\xbc\xa2\xe5\xad\x97"
    assert SplitPoints([], greedy()).last("漢字", 0, 1) == 1
    assert SplitPoints([token], greedy()).last("漢字", 0, 1) is None


def test_a_tokenizer_that_divides_otherwise_has_no_split_points() -> None:
    """Whatever its vocabulary says."""
    assert find_split_points([], greedy())
    assert not find_split_points([], greedy("7,"))
    assert not find_split_points([], lambda text: [len(text)])


def test_a_space_before_every_text_is_left_out_of_the_parts() -> None:
    """If no token joins the line end that they are tokenized with."""

    def tokenize(text: str) -> list[int]:
        return greedy()(f" {text}")

    split_points = find_split_points([], tokenize)
    assert split_points
    assert tokenize("a") + split_points.tokens_behind(tokenize, " b") == tokenize("a b")
    assert not find_split_points(["\n\n"], tokenize)


def test_tokens_are_read_as_what_they_stand_for() -> None:
    """In both kinds of vocabularies."""
    letters = tiny_models.byte_letters()
    for text in ("the 漢字\n", "é", "\0"):
        assert byte_level_text("".join(letters[byte] for byte in text.encode())) == text
    assert byte_level_text(letters[0xE6]) == "\udce6"
    assert byte_level_text("<|end of turn|>") == "<|end of turn|>"
    assert character_level_text("▁the") == " the"


# -- real tokenizers

real = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # the libraries' own
]


@pytest.mark.slow
@pytest.mark.parametrize("weights", [SMOLLM2, GEMMA3])
def test_llama_cpp_divides_texts_of_real_vocabularies(weights: IndexedModel, load: Any) -> None:
    """Of bytes and of SentencePiece; its own call gets the whole text."""
    pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")
    from backends.llamacpp import LlamacppExecutor

    executor = load(LlamacppExecutor, "--model_path", gguf_file(weights)).executor
    check(executor.tokenizer.split_points, executor.model.tokenizer.tokenize, 800)
    ordinary = partial(executor.model.tokenizer.tokenize_ordinary, is_first=True)
    check(executor.tokenizer.split_points, ordinary, 800)


@pytest.mark.parametrize("weights", [pytest.param(one, marks=real) for one in (SMOLLM2, GEMMA3)])
def test_transformers_divides_texts_of_real_vocabularies(weights: IndexedModel) -> None:
    """Of bytes and of SentencePiece."""
    transformers = pytest.importorskip("transformers", reason="the huggingface backend needs it")
    from backends.huggingface.tokenizer import LibraryTokenizer

    library = transformers.AutoTokenizer.from_pretrained(model_folder(weights))
    tokenizer = LibraryTokenizer(library, {}, ChatTemplate(""), 10**6)
    texts = tokenizer.token_texts()
    assert texts
    check(find_split_points(texts, tokenizer.tokenize), tokenizer.tokenize, 800)
