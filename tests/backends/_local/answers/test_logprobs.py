"""Log probabilities of an answer's tokens: with the text that they make, and no others."""

from __future__ import annotations

from typing import Any

import pytest

from backends._local.answers.logprobs import SampledToken, named
from backends._local.answers.pieces import pieces
from backends._local.request import Request
from kuwa_min.chat.chunks import LogprobsChunk, ThoughtChunk, TokenLogprob
from kuwa_min.chat.thinking.display import APART

OPTIONS = {"thinking_tokens": None}


def shown(texts: list[str], *, stop: tuple[str, ...] = ()) -> tuple[str, str]:
    """Return the answer of a model that writes these tokens, and those that it lists."""
    request = Request([1], OPTIONS, thinking=APART, stop=stop, logprobs=0)
    for token, text in enumerate(texts):
        request.emit(text, None if request.is_thinking else SampledToken(token, -1.0, ()))
        request.flush()
        if request.should_stop:
            break
    request.finish()
    vocabulary = [text.encode() for text in texts]
    answer, listed = "", b""
    for piece in pieces(request, vocabulary):
        if isinstance(piece, LogprobsChunk):
            answer += piece.value
            listed += b"".join(one.data for one in piece.tokens)
        else:
            assert isinstance(piece, ThoughtChunk)
    return answer, listed.decode()


@pytest.mark.parametrize(
    ("texts", "stop", "answer"),
    [
        (["Hel", "lo", " <", "b>"], (), "Hello <b>"),
        (["<think>", "\n", "Hm", "</think>", "\n\n", "Hi", "!"], (), "Hi!"),
        (["<", "think", ">", "Hm", "</", "think", ">", "\n\n", "Hi"], (), "Hi"),
        (["<", "thin", " ice"], (), "<thin ice"),
        (["Hi", " ST", "OP", " more"], ("STOP",), "Hi "),
        (["Hi", "ST", "OP", " more"], ("STOP",), "Hi"),
        (["Hi", "ST", "art"], ("STOP",), "HiSTart"),
    ],
)
def test_the_tokens_of_the_text_are_listed(
    texts: list[str], stop: tuple[str, ...], answer: str
) -> None:
    """None of a thought, and none that a stop word has cut as a whole."""
    found, listed = shown(texts, stop=stop)
    assert found == answer
    assert listed == ("Hi ST" if found == "Hi " else answer)


def test_each_piece_has_its_own() -> None:
    """However many of them are read at once."""
    request = Request([1], OPTIONS, logprobs=1)
    for token, text in enumerate("abc"):
        request.emit(text, SampledToken(token, -0.5, [(2, -0.25)]))
        request.flush()
    taken: list[Any] = [(request.next_text(), request.logprobs and request.logprobs.take())]
    assert [(text, [one.token for one in tokens]) for text, tokens in taken] == [("abc", [0, 1, 2])]


def test_a_token_without_a_text_has_no_bytes() -> None:
    """A model may have more embeddings than its tokenizer has tokens."""
    found = named([SampledToken(0, -0.5, [(9, -0.25)])], [b"a"])
    assert found == [TokenLogprob(b"a", -0.5, [(b"", -0.25)])]
