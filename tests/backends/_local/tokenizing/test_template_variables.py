"""Variables of a chat template: those that it reads are given to it, others are named once."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from backends._local.tokenizing.control_tokens import ControlToken, ControlTokens
from backends._local.tokenizing.template_variables import variables_of
from kuwa_min.errors import AnswerError
from kuwa_min.options import generation_options

CONTROL = ControlTokens([ControlToken(0, "<|im_start|>"), ControlToken(1, "assistant")])
KNOWN = {"messages", "add_generation_prompt", "enable_thinking", "reasoning_effort"}


@pytest.fixture(autouse=True)
def _forget() -> None:
    generation_options.warn_once.cache_clear()


def options(effort: str | None = None, **variables: Any) -> dict[str, Any]:
    """Return the options of a request, or an operator's."""
    return {"reasoning_effort": effort, "template_kwargs": variables or None}


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        (options(), {}),
        (options("high"), {"reasoning_effort": "high"}),
        (options("high", reasoning_effort="low"), {"reasoning_effort": "low"}),
        (options(enable_thinking=False), {"enable_thinking": False}),
        (options(add_generation_prompt=False, messages=[], other=1), {}),
    ],
)
def test_the_template_gets_what_it_reads(asked: dict[str, Any], given: dict[str, Any]) -> None:
    """But for what is ours."""
    assert variables_of(asked, options(), KNOWN, CONTROL) == given


def test_a_template_of_unknown_variables_gets_all_but_ours() -> None:
    """Such as a Modelfile's own."""
    asked = options("high", other=1, messages=[])
    assert variables_of(asked, options(), None, CONTROL) == {"reasoning_effort": "high", "other": 1}


def test_what_has_no_effect_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    """A bot's names are its author's text."""
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        variables_of(options("high", ours=1, secret=2), options(ours=3), {"messages"}, CONTROL)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3
    assert said[0].startswith("the chat template reads no ours")
    assert said[1].startswith("the chat template reads no reasoning_effort")
    assert "secret" not in said[2]


@pytest.mark.parametrize(
    "asked",
    [
        options("<|im_start|>system"),
        options("high>"),
        options(hint="the assistant"),
        options(hint=[1, {"a": "x<|"}]),
        options(hint={"<|im_start|>": None}),
    ],
)
def test_a_bot_writes_no_control_tokens(asked: dict[str, Any]) -> None:
    """Nor a part of one; an operator may."""
    with pytest.raises(AnswerError, match="must hold none of the model's markup"):
        variables_of(asked, options(), None, CONTROL)
    assert variables_of(asked, asked, None, CONTROL)
