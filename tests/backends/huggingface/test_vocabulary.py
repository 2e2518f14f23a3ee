"""Which tokenizers of transformers allow to divide a text, and that the tokens are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.backends._local.tokenizing.test_split_points import check

pytest.importorskip("transformers", reason="the huggingface backend needs transformers")

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from backends._local.tokenizing.split_points import find_split_points
from backends.huggingface.vocabulary import token_bytes, token_texts

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # the libraries' own
]
ROOT = Path(__file__).parents[3]
CHINESE = "漢字測試，繁體中文的文章。今天天氣很好，我們去公園。" * 20
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def corpus() -> list[str]:
    """Return the lines that vocabularies are trained on."""
    words = (ROOT / "docs" / "ARCHITECTURE.md").read_text("utf-8")
    return [*words.splitlines(), CHINESE]


def byte_level(regex: str = "", normalizer: Any = None) -> Any:
    """Train a vocabulary of bytes; regex: what divides words, "" for GPT-2's."""
    made = Tokenizer(models.BPE())
    split = [pre_tokenizers.Split(Regex(regex), "isolated")] if regex else []
    steps = [*split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not regex)]
    made.pre_tokenizer = pre_tokenizers.Sequence(steps)
    if normalizer is not None:
        made.normalizer = normalizer
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|im_end|>"],
    )
    made.train_from_iterator(corpus(), trainer)
    return made


def sentence_piece(*steps: Any, metaspace: str = "", byte_fallback: bool = True) -> Any:
    """Train a vocabulary of characters, with a token of each byte for those that it lacks."""
    made = Tokenizer(models.BPE(byte_fallback=byte_fallback, unk_token="<unk>", fuse_unk=True))
    if metaspace:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=metaspace, split=False)
    else:
        made.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        show_progress=False,
        max_token_length=16,
        special_tokens=["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))],
    )
    made.train_from_iterator(corpus(), trainer)
    return made


KINDS = {
    "GPT-2": byte_level,
    "Qwen2": lambda: byte_level(QWEN2, normalizers.NFC()),
    "Llama 3": lambda: byte_level(LLAMA3),
    "GPT-4o": lambda: byte_level(GPT4O),
    "Gemma": sentence_piece,
    "Llama 2": lambda: sentence_piece(normalizers.Prepend("▁")),
    "Mistral": lambda: sentence_piece(metaspace="first"),
    "prefixes": lambda: sentence_piece(metaspace="always"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_parts_have_the_tokens_of_the_whole(kind: str) -> None:
    """However words are divided, and also where a space is put before every text."""
    library = PreTrainedTokenizerFast(tokenizer_object=KINDS[kind]())
    texts = token_texts(library)
    assert texts

    def tokenize(text: str) -> list[int]:
        ids: list[int] = library(text, add_special_tokens=False).input_ids
        return ids

    check(find_split_points(texts, tokenize), tokenize, 400)


def upper(made: Any) -> Any:
    """Let a tokenizer change letters."""
    made.normalizer = normalizers.Lowercase()
    return made


@pytest.mark.parametrize(
    "make",
    [
        lambda: upper(byte_level()),
        lambda: sentence_piece(normalizers.Strip()),
        lambda: sentence_piece(byte_fallback=False),  # unknown characters become one token
        lambda: Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>")),
    ],
)
def test_what_is_not_known_well_is_not_divided(make: Any) -> None:
    """Rather than wrongly."""
    assert token_texts(PreTrainedTokenizerFast(tokenizer_object=make())) is None


def test_tokenizers_in_python_are_not_divided() -> None:
    """They can do anything."""
    assert token_texts(object()) is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_of_tokens_are_those_of_the_text(kind: str) -> None:
    """Of letters, spaces, lines and what no token has a letter for, by bytes."""
    made = KINDS[kind]()
    if made.decoder is None:
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        made.decoder = decoders.Sequence(steps)
    library = PreTrainedTokenizerFast(tokenizer_object=made)
    library.add_special_tokens({"eos_token": "</s>"})
    text = 'One  {"é": "漢字🐕"}\n\ttwo</s>'
    ids, known = library(text, add_special_tokens=False).input_ids, token_bytes(library)
    assert known is not None and len(known) == len(library)
    assert b"".join(known[token] for token in ids).decode().lstrip(" ") == text


@pytest.mark.parametrize("make", [lambda: Tokenizer(models.WordLevel({"a": 0})), lambda: None])
def test_the_bytes_of_other_tokens_are_not_known(make: Any) -> None:
    """Such as those of a tokenizer that writes words, or one in Python."""
    made = make()
    library = PreTrainedTokenizerFast(tokenizer_object=made) if made else object()
    assert token_bytes(library) is None
