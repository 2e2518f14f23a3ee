"""What may come next: anything in a thought, then what the matcher says, and an end in its time."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import ClassVar

import pytest

from backends._local.completion import Completion
from backends._local.constraints.answer import ConstrainedAnswer, Openers
from backends._local.constraints.child import NUMBER
from backends._local.constraints.matcher import MaskPendingError, Matcher
from backends._local.request import Request
from kuwa_min.chat.catalog import TOO_COMPLEX
from kuwa_min.chat.thinking import formats
from kuwa_min.chat.thinking.splitter import ThoughtSplitter
from kuwa_min.errors import AnswerError
from tests.support.models.byte_tokenizer import ByteTokenizer

TAGS = ("<end>", "<think>", "</think>", "<|start|>", "<|channel|>", "<|message|>", "<|end|>")
TOKENIZER = ByteTokenizer(*TAGS)
END, THINK, CLOSE, START, CHANNEL, MESSAGE, HARMONY_END = range(256, 256 + len(TAGS))
SIZE = 256 + len(TAGS)
OPENERS = {THINK, START, CHANNEL}


class Answer:
    """A constrained request of a model of bytes; the test is the process at the other end."""

    eos_token_ids = frozenset({END})
    markup: ClassVar = dict(enumerate(TAGS, 256))
    tokenizer = TOKENIZER

    def __init__(self, prompt_end: str = "", thinking_tokens: int | None = None) -> None:
        ours, self.process = socket.socketpair()
        constrained = ConstrainedAnswer(Matcher(ours, SIZE), Openers(TOKENIZER), [END])
        self.request = Request(
            [1],
            {"thinking_tokens": thinking_tokens},
            constrained=constrained,
            splitter=ThoughtSplitter(prompt_end),
        )
        self.completion = Completion(self.request, self)

    @staticmethod
    def create_detokenizer() -> object:
        """Bytes are text, markup is not."""
        return lambda token: chr(token) if token < 256 else ""

    def allow(self, *tokens: int) -> None:
        """Send a mask; SIZE is the end."""
        mask = bytearray(SIZE // 8 + 1)
        for token in tokens:
            mask[token >> 3] |= 1 << (token & 7)
        self.process.sendall(mask)

    @property
    def allowed(self) -> set[int] | None:
        """Return the tokens that may come next, None for all."""
        mask = self.request.allowed_tokens()
        if mask is None:
            return None
        return {token for token in range(len(mask) * 8) if mask[token >> 3] >> (token & 7) & 1}

    def add(self, *tokens: int) -> None:
        """Sample tokens."""
        for token in tokens:
            self.request.allowed_tokens()
            self.completion.add_token(self.completion.choose(token))

    def received(self) -> int | None:
        """Return the next token that was sent to the process; None if there is none."""
        self.process.setblocking(False)
        try:
            return int(NUMBER.unpack(self.process.recv(NUMBER.size))[0])
        except BlockingIOError:
            return None


Create = Callable[..., Answer]


@pytest.fixture
def create() -> Iterator[Create]:
    """Give what begins an answer to a prompt with this end; close them all."""
    begun: list[Answer] = []

    def make(prompt_end: str = "", thinking_tokens: int | None = None) -> Answer:
        begun.append(Answer(prompt_end, thinking_tokens))
        return begun[-1]

    yield make
    for one in begun:
        one.process.close()
        one.request.cancel()
        one.request.finish()


@pytest.fixture
def answer(create: Create) -> Answer:
    """Begin an answer to an ordinary prompt."""
    return create()


def test_what_the_matcher_allows_may_come_next(answer: Answer) -> None:
    """A mask is asked for once a token, however often it is looked at."""
    answer.allow(97, 98)
    assert answer.allowed == answer.allowed == {97, 98} | OPENERS
    answer.add(97)
    assert answer.received() == 97
    answer.allow(98)
    assert answer.allowed == {98}, "nothing opens a thought within an answer"


def test_it_ends_only_where_the_matcher_can(answer: Answer) -> None:
    """With the model's own EOS token, which the matcher does not get."""
    answer.allow(97)
    answer.add(97)
    assert answer.received() == 97
    answer.allow(97, SIZE)
    assert answer.allowed == {97, END}
    answer.add(END)
    assert answer.received() is None
    assert answer.request.constrained and answer.request.constrained.is_complete()


def test_a_thought_that_the_prompt_opened_is_free(create: Create) -> None:
    """The answer begins behind it."""
    answer = create("<think>")
    assert answer.allowed is None
    answer.add(*b"hm ", CLOSE)
    assert answer.received() is None
    answer.allow(97)
    assert answer.allowed == {97} | OPENERS
    answer.add(97)
    assert answer.received() == 97


def test_a_thought_that_the_model_opens_is_free(answer: Answer) -> None:
    """What may stand in front of an answer is allowed there."""
    answer.allow(97)
    answer.add(THINK)
    assert answer.allowed is None
    answer.add(*b"ab", CLOSE)
    assert answer.allowed == {97} | OPENERS, "the mask of the first token still holds"
    answer.add(97)
    assert answer.received() == 97


@pytest.mark.parametrize("between", [(HARMONY_END, START, *b"assistant"), ()])
def test_the_headers_of_harmony_are_free(answer: Answer, between: tuple[int, ...]) -> None:
    """Those of thoughts and of the answer."""
    assert set(formats.HEADERS) == {"<|start|>", "<|channel|>"}
    answer.allow(97)
    answer.add(CHANNEL, *b"analysis", MESSAGE)
    assert answer.allowed is None
    answer.add(*b"hm", *between, CHANNEL, *b"final")
    assert answer.allowed is None
    answer.add(MESSAGE)
    assert answer.allowed == {97} | OPENERS
    answer.add(97)
    assert answer.received() == 97


def test_what_closes_too_long_a_thought_is_no_part_of_the_answer(create: Create) -> None:
    """Nor what follows the tag, which is forced as well."""
    answer = create("<think>", thinking_tokens=0)
    answer.allow(97)
    forced = TOKENIZER.tokenize(formats.FORMATS[0].closing)
    assert forced[-1] != CLOSE, "white space is"
    answer.add(*[97] * len(forced))
    assert answer.received() is None
    answer.add(97)
    assert answer.received() == 97


def test_an_answer_whose_process_is_gone_ends_with_a_sentence(answer: Answer) -> None:
    """Whether it was killed by a limit or by others."""
    answer.process.close()
    with pytest.raises(AnswerError) as failed:
        answer.request.allowed_tokens()
    assert str(failed.value) == TOO_COMPLEX


@pytest.mark.parametrize(("can_end", "lines"), [(True, 0), (False, 1)])
def test_the_log_says_of_an_answer_that_it_was_cut(
    answer: Answer, caplog: pytest.LogCaptureFixture, can_end: bool, lines: int
) -> None:
    """By the greatest length, or a stop word; the process ends with it."""
    answer.allow(97)
    answer.add(97)
    answer.allow(98, *[SIZE] * can_end)
    answer.request.finish()
    assert len(caplog.messages) == lines
    assert all("after 1 tokens, before it was known to match" in line for line in caplog.messages)
    answer.process.recv(NUMBER.size)
    assert not answer.process.recv(1), "closed"


def test_a_stopped_answer_waits_for_nothing(
    answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor is it in the log."""
    answer.allow(97)
    answer.add(97)
    answer.request.cancel()
    answer.request.finish()
    assert not caplog.messages


def test_a_late_mask_is_asked_for_again(answer: Answer) -> None:
    """Until it has come; every part of it that came before is kept."""
    for _ in range(2):
        with pytest.raises(MaskPendingError):
            answer.request.allowed_tokens(0)
    answer.process.sendall(bytes(3))
    assert answer.request.is_held(0)
    answer.process.sendall(bytes([255] * (SIZE // 8 - 2)))
    mask = answer.request.allowed_tokens(0)
    assert mask is not None and not mask[0] and mask[3] == 255
    assert mask == answer.request.allowed_tokens()
