"""The prompt limit: its tokens, and what of a chat is left out or refused because of it."""

from __future__ import annotations

from typing import Any

import pytest

from backends._local.prompts.encoder import EncodedPrompt
from backends._local.prompts.limit import MESSAGE_TOKENS, SLACK, PromptLimit
from backends._local.tokenizing.piece_tokenizer import PieceTokenizer
from kuwa_min.chat.catalog import TOO_LONG
from kuwa_min.chat.modelfile import Message
from kuwa_min.chat.prompt import Prompt
from kuwa_min.errors import AnswerError
from tests.support.local_chats import chat
from tests.support.models.byte_tokenizer import ByteTokenizer

LIMIT = 40
EXCESS = "a" * (SLACK * LIMIT + 1)
PICTURE = f"data:image/png;base64,{2 * EXCESS}"


class Context:
    """The context of a model."""

    def __init__(self, context_length: int) -> None:
        self.context_length = context_length


class Encoder:
    """Counts a byte as a token; pictures: tokens of the pictures of a message."""

    def __init__(self, pictures: int = 0) -> None:
        self.counted: list[list[str]] = []
        self._pictures = pictures

    def count_tokens(self, messages: list[Message]) -> int:
        """Return the bytes of the messages, with MESSAGE_TOKENS for each."""
        self.counted.append(contents(messages))
        texts = sum(len(one["content"]) + MESSAGE_TOKENS for one in messages)
        return texts + len(messages) * self._pictures

    def encode(self, messages: list[Message]) -> EncodedPrompt:
        """Nothing encodes here."""
        raise NotImplementedError

    def count_image_tokens(self, message: Message) -> int:
        """Return the tokens of pictures, the same for each message."""
        return self._pictures


def limit_of(tokens: int = LIMIT, *, context_length: int = 1024) -> PromptLimit:
    """Return a limit for a model whose tokens are bytes."""
    return PromptLimit(Context(context_length), PieceTokenizer(ByteTokenizer()), tokens)


def contents(messages: list[Any]) -> list[str]:
    """Return the texts of messages."""
    return [one["content"] for one in messages]


def test_room_for_an_answer_is_left_in_the_context() -> None:
    """An eighth of it, but a token at least."""
    assert limit_of(3072, context_length=4096).tokens == 3072
    assert limit_of(3072, context_length=2048).tokens == 2048 - 256
    assert limit_of(3072, context_length=2).tokens == 1


def test_the_context_length_may_be_set_after_the_limit_is_made() -> None:
    """llama.cpp's is measured when the scheduler is created."""
    context = Context(4096)
    limit = PromptLimit(context, PieceTokenizer(ByteTokenizer()), 3072)
    context.context_length = 1024
    assert limit.tokens == 1024 - 128


@pytest.mark.parametrize("asked", [chat(EXCESS), 2 * chat(EXCESS[: len(EXCESS) // 2 + 1])])
def test_a_question_that_cannot_fit_is_refused_unread(asked: list[Message]) -> None:
    """By its characters, also if it has several messages: no token is counted."""
    with pytest.raises(AnswerError) as refused:
        limit_of().truncate_history([*chat("one", "1"), *asked])
    assert refused.value.args == (TOO_LONG,)


def test_a_system_prompt_that_cannot_fit_is_refused_unread() -> None:
    """It counts with the question."""
    encoder = Encoder()
    half = EXCESS[: len(EXCESS) // 2 + 1]
    with pytest.raises(AnswerError) as refused:
        limit_of().fit(Prompt(half, [], chat(half)), encoder)
    assert refused.value.args == (TOO_LONG,)
    assert encoder.counted == []


def test_a_message_that_cannot_fit_is_left_out_with_those_before_it() -> None:
    """The newest messages are kept."""
    kept = limit_of().truncate_history(chat("one", EXCESS, "two", "2", "three"))
    assert contents(kept) == ["two", "2", "three"]


def test_a_picture_in_a_message_is_no_text() -> None:
    """It is handed on as it is, however long."""
    history = chat("one", "1", f"What is it? {PICTURE}")
    assert limit_of().truncate_history(history) == history


def test_examples_that_cannot_fit_are_left_out_unread() -> None:
    """All of them, as none alone makes sense."""
    encoder = Encoder()
    kept = limit_of().fit(Prompt("", chat("e", EXCESS), chat("one")), encoder)
    assert contents(kept) == ["one"]
    assert encoder.counted == [["one"]]


@pytest.mark.parametrize(
    ("pictures", "kept"), [(0, ["a" * 9, "b" * 9, "c" * 9]), (1, ["c" * 9]), (26, ["c" * 9])]
)
def test_the_oldest_exchange_goes_until_the_prompt_fits(pictures: int, kept: list[str]) -> None:
    """Pictures count with the text."""
    said = chat("a" * 9, "b" * 9, "c" * 9)
    assert contents(limit_of(39).fit(Prompt("", [], said), Encoder(pictures))) == kept
