"""A chat as it is sent to a service: truncated before, and after the service found it too long.

Files, and what the two services make of it, are tested with them.
"""

from __future__ import annotations

import random
import sys

import pytest

from backends._cloud.api_key import NO_KEY
from backends._cloud.errors import FIT_MARGIN
from backends._cloud.request import CompletionRequest
from backends._cloud.token_estimate import chat_tokens
from kuwa_min.chat.modelfile import Message
from kuwa_min.chat.prompt import Prompt
from kuwa_min.errors import AnswerError

WINDOW = 2000  # tokens that the service takes
TURNS = 40


def request(history: list[Message]) -> CompletionRequest:
    """Return a request for a chat of which nothing was dropped yet."""
    whole = CompletionRequest("m", Prompt("be kind", [], history), [], {}, {}, NO_KEY)
    return whole.fitted(sys.maxsize)


def chat(rng: random.Random) -> list[Message]:
    """Return a chat of many turns that ends with a question."""
    history: list[Message] = []
    for number in range(TURNS):
        history.append({"role": "user", "content": f"question {number} " * rng.randint(1, 10)})
        history.append({"role": "assistant", "content": f"answer {number} " * rng.randint(1, 60)})
    return [*history, {"role": "user", "content": "so?"}]


def accepted(
    history: list[Message], tokens_per_estimate: float, *, tells: bool
) -> tuple[list[Message], int]:
    """Return what a service accepts of a chat, and how often it refused before.

    tells: it says how many tokens it counted, and how many it takes.
    """
    one, refusals = request(history), 0
    while (tokens := chat_tokens(one.messages) * tokens_per_estimate) > WINDOW:
        one = one.truncated(WINDOW / tokens * FIT_MARGIN if tells else None)
        refusals += 1
    return one.messages, refusals


@pytest.mark.parametrize("tokens_per_estimate", [0.7, 0.9, 1.3])
@pytest.mark.parametrize("seed", range(5))
def test_turns_that_a_service_finds_too_long_begin_alike(
    seed: int, tokens_per_estimate: float
) -> None:
    """So that it can reuse what it computed."""
    history, last, anew = chat(random.Random(seed)), [], 0
    for end in range(1, len(history) + 1, 2):
        messages, refusals = accepted(history[:end], tokens_per_estimate, tells=True)
        assert refusals <= 1
        assert messages[0] == {"role": "system", "content": "be kind"}
        assert messages[-1] == history[end - 1]
        anew += messages[: len(last)] != last
        last = messages
    assert 3 <= anew <= TURNS / 4


def test_a_service_that_does_not_count_is_asked_a_few_times() -> None:
    """As whole blocks are dropped, not one exchange after the other."""
    messages, refusals = accepted(chat(random.Random(1)), 1.3, tells=False)
    assert chat_tokens(messages) > WINDOW / 1.3 / 3
    assert 1 < refusals <= 7


def test_a_last_message_that_just_fits_is_sent() -> None:
    """One token less is too little for it."""
    last: Message = {"role": "user", "content": "long " * 500}
    one = request([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a"}, last])
    messages = one.truncated(0.999).messages
    assert messages == [{"role": "system", "content": "be kind"}, last]
    with pytest.raises(AnswerError):
        one._replace(messages=messages).truncated(None)
