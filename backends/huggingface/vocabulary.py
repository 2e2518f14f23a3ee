"""The tokens of a transformers tokenizer, if it is one whose texts can be divided."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from backends._local.tokenizing.split_points import byte_level_text, character_level_text

SAFE_NORMALIZERS = ("NFC", "Prepend")  # what they make of a text, they make of its parts
CHARACTER_DECODERS = {"ByteFallback", "Fuse", "Metaspace", "Replace", "Strip"}
BYTE = re.compile("<0x[0-9A-F]{2}>")  # by which SentencePiece writes a byte
SPACE_MARK = "\u2581"  # by which SentencePiece writes a space


def token_texts(library: Any) -> Iterator[str] | None:
    """Return the texts of all tokens as SplitPoints wants them; None if texts are not divisible.

    Such are the tokenizers that are written in Python, those that change characters, and those that
    join unknown characters to one token.
    """
    fast = getattr(library, "backend_tokenizer", None)
    return _texts(fast) if fast is not None and _is_known(fast) else None


def token_bytes(library: Any) -> list[bytes] | None:
    """Return the bytes of all tokens' texts, by their ids; None if the decoder is not known."""
    fast = getattr(library, "backend_tokenizer", None)
    steps = {step["type"]: step for step in _steps(fast.decoder)} if fast is not None else {}
    if "ByteLevel" in steps:
        write = _byte_level_bytes
    elif steps and set(steps) <= CHARACTER_DECODERS:
        write = _character_level_bytes
    else:
        return None
    tokens = {token: write(text) for text, token in fast.get_vocab(with_added_tokens=False).items()}
    added = fast.get_added_tokens_decoder()
    tokens |= {token: write(one.content) for token, one in added.items()}
    return [tokens.get(token, b"") for token in range(max(tokens) + 1)]


def _byte_level_bytes(token: str) -> bytes:
    return byte_level_text(token).encode("utf-8", "surrogateescape")


def _character_level_bytes(token: str) -> bytes:
    if BYTE.fullmatch(token):
        return bytes([int(token[3:5], 16)])
    return character_level_text(token).encode()


def _is_known(fast: Any) -> bool:
    model, added = fast.model, fast.get_added_tokens_decoder().values()
    joins_unknown = getattr(model, "fuse_unk", True) and not getattr(model, "byte_fallback", False)
    has_unknown = getattr(model, "unk_token", "") is not None
    return (
        all(_is_safe(step) for step in _steps(fast.normalizer))
        and not (joins_unknown and has_unknown)
        and not any(one.single_word or (one.rstrip and one.content[-1:].isalnum()) for one in added)
    )


def _is_safe(normalizer: dict[str, Any]) -> bool:
    kind = normalizer["type"]
    replaces_space = kind == "Replace" and normalizer["pattern"] == {"String": " "}
    return kind in SAFE_NORMALIZERS or (replaces_space and normalizer["content"] == SPACE_MARK)


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    """Return the steps of a tokenizer's part, which may be a sequence of others."""
    if part is None:
        return
    steps = [json.loads(part.__getstate__())]
    while steps:
        step = steps.pop(0)
        if step["type"] != "Sequence":
            yield step
        for name in ("normalizers", "pretokenizers", "decoders"):
            steps += step.get(name, ())


def _texts(fast: Any) -> Iterator[str]:
    """Return the texts of all tokens, as SplitPoints wants them."""
    steps = [*_steps(fast.pre_tokenizer), *_steps(fast.normalizer), *_steps(fast.decoder)]
    is_byte_level = any(step["type"] == "ByteLevel" for step in steps)
    text = byte_level_text if is_byte_level else character_level_text
    yield from map(text, fast.get_vocab(with_added_tokens=False))
    yield from (
        character_level_text(one.content) for one in fast.get_added_tokens_decoder().values()
    )
