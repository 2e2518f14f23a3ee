"""The options of models that think."""

from __future__ import annotations

from typing import Any

import pytest

from kuwa_min.options.generation_options import Option
from kuwa_min.options.thinking import LOCAL_OPTIONS, TEMPLATE_KWARGS, THINKING, THINKING_TOKENS


@pytest.mark.parametrize(
    ("option", "value", "converted"),
    [
        (THINKING, "note", "note"),
        (THINKING_TOKENS, "0", 0),
        (TEMPLATE_KWARGS, '{"enable_thinking": false}', {"enable_thinking": False}),
        (TEMPLATE_KWARGS, {"a": [1]}, {"a": [1]}),
        (TEMPLATE_KWARGS, " {} ", {}),
    ],
)
def test_values(option: Option, value: Any, converted: Any) -> None:
    """As words of the command line, and as a file has them."""
    assert option.convert(value) == converted


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        (THINKING, "loud", "thinking must be one of hide, note, show"),
        (THINKING, True, "thinking must be text"),
        (THINKING_TOKENS, -1, "thinking_tokens must be at least 0"),
        *(
            (
                TEMPLATE_KWARGS,
                value,
                "template_kwargs must be a JSON object of 16384 characters at most",
            )
            for value in (
                "[1]",
                "enable_thinking",
                "{half",
                '{"a": NaN}',
                {"a": {1, 2}},
                7,
                None,
                {1: 2},
                f'{{"a": "{"x" * 16384}"}}',
            )
        ),
    ],
)
def test_other_values_are_refused(option: Option, value: Any, reason: str) -> None:
    """In a clause that names the option."""
    with pytest.raises(ValueError, match=f"^{reason}$"):
        option.convert(value)


def test_every_option_has_a_name_of_its_own() -> None:
    """They stand in one table."""
    assert len({one.name for one in LOCAL_OPTIONS}) == len(LOCAL_OPTIONS) == 4
