"""Response templates of tokenizers: transformers' parser tells the same samples apart as we do."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("transformers", reason="the parser is transformers'")
pytest.importorskip("transformers.utils.chat_parsing", reason="which older versions lack")

from backends.huggingface.response_splitter import ResponseSplitter, load_template
from kuwa_min.chat.thinking.answer_text import AnswerText
from kuwa_min.chat.thinking.formats import FORMATS, Format
from tests.kuwa_min.chat.thinking.samples import (
    ANSWER,
    SAMPLES,
    THOUGHT,
    Sample,
    joined,
    split,
)

pytestmark = pytest.mark.slow
PLAIN = ANSWER.replace("<think>", "think:")  # the library takes every tag for one
ANCHOR = "<|assistant|>"


def template_of(one: Format) -> dict[str, Any]:
    """Return a response template for a row of our table."""
    return {
        "defaults": {"role": "assistant"},
        "start_anchor": ANCHOR,
        "fields": {
            "reasoning_content": {"open": one.open, "close": one.close},
            "tool_calls": {"open": "<tool>", "close": "</tool>", "content": "json"},
            "content": {"close": ["<|im_end|>"]},
        },
    }


def splitter(one: Format, prompt_end: str = "") -> ResponseSplitter:
    """Return a splitter for an answer of a model whose tokenizer has such a template."""
    tokenizer = SimpleNamespace(response_template=template_of(one))
    return ResponseSplitter(load_template(tokenizer), prompt_end)


THINK = FORMATS[0]
OURS = {
    "DeepSeek-R1, Qwen3": THINK,
    "opened by the template": THINK,
    "Magistral": next(one for one in FORMATS if one.open == "[THINK]"),
    "Gemma 4": next(one for one in FORMATS if one.open.startswith("<|channel>")),
}


@pytest.mark.parametrize("name", OURS)
def test_the_parser_is_judged_by_the_same_samples(name: str) -> None:
    """Cut at every byte."""
    sample = SAMPLES[name]
    prompt_end = ANCHOR + ("<think>\n" if name == "opened by the template" else "")
    text = sample.text.replace(ANSWER, PLAIN)
    sample = Sample(text, has_special_tokens=sample.has_special_tokens)
    for size in range(1, len(text.encode()) + 1, 3):
        parts = split(splitter(OURS[name], prompt_end), sample.pieces(size))
        assert joined(parts, "thought").strip() == THOUGHT.strip()
        assert joined(parts, "answer") == PLAIN


def test_what_is_open_is_known() -> None:
    """For signs of life and a limit; a prompt without the anchor opens nothing."""
    one = AnswerText(splitter(THINK, f"hi{ANCHOR}<think>"))
    assert (one.is_thinking, one.closing) == (True, "</think>")
    assert one.feed("a</think>\n\nb") + one.feed(" c") == "b c"
    assert not one.is_thinking
    assert not splitter(THINK, "hi <think>").is_thinking


def test_special_tokens_that_the_template_does_not_name_are_markup() -> None:
    """Stop words may hold them; so do those that end an answer."""
    one = splitter(THINK)
    assert one.feed("Hi") == [("answer", "Hi")]
    assert one.feed("<pad>", hidden=True) == [("markup", "<pad>")]
    assert one.feed("<|im_end|>", hidden=True) == [("markup", "<|im_end|>")]
    assert one.finish() == []


def test_text_that_the_parser_refuses_is_no_loss() -> None:
    """What follows a broken call of a tool is the answer."""
    one = splitter(THINK)
    parts = split(one, [(text, False) for text in ("Hi", "<tool>{", "</tool>", " all", "!")])
    assert joined(parts, "answer") == "Hi all!"


def test_a_template_that_cannot_be_used_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """Ours is used then."""
    caplog.set_level(logging.WARNING)
    assert load_template(SimpleNamespace()) is None
    assert load_template(SimpleNamespace(response_template={"fields": {}})) is None
    assert "response template cannot be used" in caplog.text
