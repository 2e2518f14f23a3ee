"""A chain: chatgpt asks another executor's /v1."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest

from backends.chatgpt import ChatgptExecutor
from kuwa_min.chat import catalog
from kuwa_min.chat.chunks import ThoughtChunk
from kuwa_min.errors import AnswerError
from kuwa_min.kernel.protocol import ChatRequest
from kuwa_min.serving import usage
from tests.kuwa_min.serving.api_client import api
from tests.support import cloud_chats

pytest.importorskip("openai", reason="the chatgpt backend needs OpenAI's SDK")


async def answer(chat: ChatRequest) -> AsyncGenerator[Any, None]:
    """Think, then repeat what was asked, and with which temperature; or refuse."""
    text = chat.history[-1]["content"]
    if text == "too long":
        raise AnswerError(catalog.TOO_LONG)
    yield ThoughtChunk("Hm.")
    yield f"{text} {chat.modelfile.parameters['llm_'].get('temperature')}"
    usage.count(5, 2, 3)
    usage.end("length")


async def schema(chat: ChatRequest) -> AsyncGenerator[str, None]:
    """Repeat the schema that the answer must match."""
    yield chat.modelfile.parameters["llm_"]["json_schema"]


@pytest.fixture
def executor(surroundings: None) -> Iterator[Any]:
    """Give a chatgpt executor whose service is another one's /v1."""
    with api(answer, tokens=["right-token"], on_loop=False) as one:
        options = ("--base_url", one.url, "--model", "m", "--api_key", "right-token")
        yield cloud_chats.start(ChatgptExecutor, *options)


def test_text_options_thoughts_and_the_end_come_through(executor: Any) -> None:
    """As from any other service."""
    counted = usage.Usage()
    with usage.counting(counted):
        text_of_answer = cloud_chats.ask(
            executor, "Hello", llm_temperature="0.25", llm_thinking="show"
        )
    assert text_of_answer.startswith("<think>Hm.</think>\n\nHello 0.25")
    assert "its greatest length" in text_of_answer or "<<<WARNING>>>" in text_of_answer
    assert (counted.prompt_tokens, counted.completion_tokens, counted.cached_tokens) == (5, 2, 3)
    assert counted.finish_reason == "length"


def test_a_refusal_comes_through(executor: Any) -> None:
    """What is too long for one is too long for the other."""
    assert cloud_chats.ask(executor, "too long") == catalog.TOO_LONG


@pytest.mark.parametrize("text", ['{"type":"object"}', '{"type":"object","required":["a"]}'])
def test_what_answers_must_match_comes_through(surroundings: None, text: str) -> None:
    """Where the other executor obeys it; else it is a sentence, as is what /v1 has no field for."""
    for features, expected in ((("json_schema",), text), ((), "json_schema")):
        with api(schema, features=features) as one:
            executor = cloud_chats.start(ChatgptExecutor, "--base_url", one.url, "--model", "m")
            text_of_answer = cloud_chats.ask(executor, "hi", llm_json_schema=text)
            assert text_of_answer == (
                expected if features else catalog.NOT_AN_OPTION.format(expected)
            )
            text_of_answer = cloud_chats.ask(executor, "hi", llm_regex="a")
            assert text_of_answer == catalog.NOT_AN_OPTION.format("regex")
