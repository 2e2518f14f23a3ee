"""A thought that is too long is closed by tokens in place of those that were sampled."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import ClassVar

import pytest

from backends._local.completion import Completion
from backends._local.request import Request
from backends._local.tokenizing.prompt_tokenizer import Tokenizer
from kuwa_min.chat.thinking.splitter import ThoughtSplitter
from tests.support.models.byte_tokenizer import ByteTokenizer


class Vocabulary:
    """A token is a byte; byte 0 ends a completion."""

    markup: ClassVar[dict[int, str]] = {}
    tokenizer: Tokenizer = ByteTokenizer()
    eos_token_ids: Container[int] = {0}

    def create_detokenizer(self) -> Callable[[int], str]:
        """Return one letter for each token."""
        return chr


def completed(sampled: str, most: int | None, prompt_end: str = "") -> tuple[str, str]:
    """Return the whole text of a completion with a limit, and what is shown of it."""
    request = Request([1], {"thinking_tokens": most}, splitter=ThoughtSplitter(prompt_end))
    completion = Completion(request, Vocabulary())
    text = ""
    for token in sampled.encode():
        chosen = completion.choose(token)
        text += chr(chosen)
        completion.add_token(chosen)
    request.finish()
    return text, request.next_text(0)


END = "\n</think>\n\n"


@pytest.mark.parametrize(
    ("sampled", "most", "prompt_end", "text", "shown"),
    [
        ("<think>abcdef" + "." * 12 + "Hi", 3, "", f"<think>abc{END}....Hi", "....Hi"),
        ("." * 12 + "Hi", 0, "<think>\n", f"{END}.Hi", ".Hi"),
        ("ab</think>Hi", 100, "<think>\n", "ab</think>Hi", "Hi"),
        ("ab</think>Hi", None, "<think>\n", "ab</think>Hi", "Hi"),
        ("Hi, <think> all", 0, "", "Hi, <think> all", "Hi, <think> all"),
    ],
)
def test_a_thought_has_so_many_tokens(
    sampled: str, most: int | None, prompt_end: str, text: str, shown: str
) -> None:
    """Then the answer begins; an answer has no limit."""
    whole, said = completed(sampled, most, prompt_end)
    assert (whole, said) == (text, shown)
