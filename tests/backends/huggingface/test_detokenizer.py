"""Streaming detokenizers: whole characters, nothing lost."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.support.models import tiny_models
from tests.support.models.real_models import GEMMA3, model_folder

pytest.importorskip("transformers", reason="the huggingface backend needs transformers")

import transformers
from tokenizers import Regex, Tokenizer, decoders, models
from tokenizers.decoders import DecodeStream

from backends.huggingface.detokenizer import detokenizer_factory

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # the libraries' own
]
TEXT = "Hello 世界\n\n👋🏽 é\nend"
WORDS = ("▁", "a", "b", "▁the", "ing", "▁世界", "é", "\n")
FIRST_BYTE = 3  # tokens before those of bytes: <unk>, <s>, </s>
FIRST_WORD = FIRST_BYTE + 256


class Slow:
    """A tokenizer without a stream of its own, as those written in Python."""

    def __init__(self, inner: Any) -> None:
        self.decode, self.get_vocab = inner.decode, inner.get_vocab


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Make a tokenizer of single bytes."""
    return tiny_models.make_tokenizer()


@pytest.mark.parametrize("kind", [lambda inner: inner, Slow])
def test_characters_come_whole(tokenizer: Any, kind: Any) -> None:
    """However many tokens one has; special tokens are not text."""
    decode = detokenizer_factory(kind(tokenizer))()
    pieces = [decode(token) for token in [tiny_models.END, *tokenizer(TEXT).input_ids]]
    assert [piece for piece in pieces if piece] == list(TEXT)


@pytest.mark.parametrize("kind", [lambda inner: inner, Slow])
def test_a_character_that_is_never_finished_is_not_shown(tokenizer: Any, kind: Any) -> None:
    """An answer may end in the middle of one."""
    decode = detokenizer_factory(kind(tokenizer))()
    tokens = tokenizer("a世").input_ids[:-1]
    assert "".join(map(decode, tokens)) == "a"


def test_answers_share_no_state(tokenizer: Any) -> None:
    """Half a character of one is not finished by another."""
    create = detokenizer_factory(tokenizer)
    one, other = create(), create()
    first, second, third = tokenizer("世").input_ids
    assert one(first) == other(first) == one(second) == other(second) == ""
    assert one(third) == other(third) == "世"


# -- byte fallback: vocabularies of SentencePiece, as Llama 2, Mistral and Gemma have them


@pytest.fixture(scope="module")
def sentencepiece() -> Any:
    """Make a tokenizer that writes what its few words lack in tokens of single bytes."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *WORDS]
    vocabulary = [(piece, -float(number)) for number, piece in enumerate(pieces)]
    inner = Tokenizer(models.Unigram(vocabulary, 0, byte_fallback=True))
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    inner.add_special_tokens(["<s>", "</s>"])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")


def decoded(row: list[int]) -> str:
    """Return the text of a row, with U+FFFD where its bytes are no UTF-8."""
    parts = (
        bytes([token - FIRST_BYTE])
        if token < FIRST_WORD
        else WORDS[token - FIRST_WORD].replace("▁", " ").encode()
        for token in row
        if token >= FIRST_BYTE
    )
    return b"".join(parts).decode(errors="replace").removeprefix(" ")


def is_cut_off_from(text: str, whole: str) -> bool:
    """Tell whether a text lacks nothing but U+FFFD at the end."""
    return whole.startswith(text) and not whole[len(text) :].strip("\ufffd")


@pytest.mark.parametrize("kind", [lambda inner: inner, Slow])
def test_bytes_that_are_no_characters_are_replaced(sentencepiece: Any, kind: Any) -> None:
    """And the rest of the answer is there, whatever a model of poor quality writes."""
    create, chance = detokenizer_factory(kind(sentencepiece)), random.Random(0)
    last = FIRST_WORD + len(WORDS) - 1
    kinds = [(1, last), (FIRST_BYTE, FIRST_WORD - 1), (FIRST_WORD, last)]
    replaced = 0
    for _ in range(2000):
        row = [chance.randint(FIRST_WORD, last)]  # a space before the first one is not text
        row += [chance.randint(*chance.choice(kinds)) for _ in range(chance.randrange(30))]
        text = "".join(map(create(), row))
        assert is_cut_off_from(text, decoded(row)), row
        replaced += "\ufffd" in text
    assert replaced > 1000, "most rows have invalid bytes"


@pytest.mark.parametrize("kind", [lambda inner: inner, Slow])
def test_valid_text_is_what_the_library_decodes(sentencepiece: Any, kind: Any) -> None:
    """At once, from bytes and from words; spaces are where the library has them."""
    create, chance = detokenizer_factory(kind(sentencepiece)), random.Random(0)
    parts = ("the", " the", " ", "世界", " 世界", "é", "👋🏽", "a", "ing", "\n", "\u0080", "<s>")
    for _ in range(500):
        written = "".join(chance.choice(parts) for _ in range(chance.randrange(1, 20)))
        row = sentencepiece(written).input_ids
        whole = sentencepiece.decode(row, skip_special_tokens=True)
        assert "".join(map(create(), row)) == whole, row


def test_a_valid_character_behind_an_invalid_byte_is_not_lost(sentencepiece: Any) -> None:
    """Though the library, decoding a run of bytes as a whole, would replace it, too."""
    row = [FIRST_BYTE + byte for byte in "世".encode() + b"\xff" + "世".encode()]
    assert sentencepiece.decode(row) == "\ufffd" * 7
    assert "".join(map(detokenizer_factory(sentencepiece)(), row)) == "世\ufffd世"


def test_gemmas_vocabulary() -> None:
    """A real one, with which the library's stream raises in many a row."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder(GEMMA3))
    create, chance = detokenizer_factory(tokenizer), random.Random(0)
    texts = [token.replace("▁", " ").encode() for token in inverted(tokenizer.get_vocab())]
    singles = tokenizer.convert_tokens_to_ids([f"<0x{byte:02X}>" for byte in range(256)])
    texts = dict(enumerate(texts)) | {token: bytes([at]) for at, token in enumerate(singles)}
    words = sorted(texts.keys() - tokenizer.added_tokens_decoder.keys())
    for _ in range(1000):
        kinds = (singles, words)
        row = [chance.choice(chance.choice(kinds)) for _ in range(chance.randrange(1, 30))]
        whole = b"".join(texts[token] for token in row).decode(errors="replace")
        assert is_cut_off_from("".join(map(create(), row)), whole), row
        letters = [chr(chance.randrange(0x20000, 0x2A000)) for _ in range(5)]  # few have tokens
        row = tokenizer(f"Hello {'世 '.join(letters)} 👋🏽\n", add_special_tokens=False).input_ids
        assert "".join(map(create(), row)) == tokenizer.decode(row)
    invalid = [singles[byte] for byte in "世".encode() + b"\xff"]
    stream = DecodeStream([], skip_special_tokens=True)
    with pytest.raises(Exception, match="Invalid prefix"):  # tokenizers has no narrower one
        for token in [*invalid, *words[-1:]]:
            stream.step(tokenizer.backend_tokenizer, token)


def inverted(vocabulary: dict[str, int]) -> list[str]:
    """Return the tokens by their ids."""
    return sorted(vocabulary, key=lambda token: vocabulary[token])


def test_names_of_bytes_may_be_plain_text() -> None:
    """In a vocabulary whose decoder knows no bytes."""
    inner = Tokenizer(models.WordLevel({"<0x41>": 0, "x": 1}, "x"))
    inner.decoder = decoders.Fuse()
    decode = detokenizer_factory(transformers.PreTrainedTokenizerFast(tokenizer_object=inner))()
    assert [decode(0), decode(1)] == ["<0x41>", "x"]


@pytest.mark.parametrize(
    ("steps", "row", "right"),
    [
        ([decoders.Fuse(), decoders.Replace("ab", "")], "abccab", ["a", "", "", "bcc", "a", ""]),
        ([decoders.Fuse(), decoders.Replace(Regex("a+b"), "X")], "aabc", ["a", "a", "", "bc"]),
    ],
)
def test_a_token_that_changes_earlier_text_loses_nothing(
    steps: list[Any], row: str, right: list[str]
) -> None:
    """What was emitted stays; the library's stream raises or waits."""
    inner = Tokenizer(models.WordLevel({letter: n for n, letter in enumerate("abc")}, "c"))
    inner.decoder = decoders.Sequence(steps)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner)
    decode = detokenizer_factory(tokenizer)()
    assert [decode("abc".index(letter)) for letter in row] == right
