"""How many tokens a model takes, as services list it."""

from __future__ import annotations

from typing import Any

import pytest

from backends.chatgpt.context_window import from_model_list, from_model_name


@pytest.mark.parametrize(
    ("entry", "window"),
    [
        ({"max_model_len": 4096}, 4096),
        ({"context_length": 8192, "top_provider": {"context_length": 4096}}, 8192),
        ({"top_provider": {"context_length": 4096}}, 4096),
        ({"context_window": 131072}, 131072),
        ({"meta": {"n_ctx_train": 32768, "n_ctx": 2048}}, 2048),
        ({"meta": {"n_ctx_train": 32768}}, 32768),
        ({"max_model_len": None, "context_length": "8192"}, None),
        ({"max_model_len": True}, None),
        ({"max_model_len": 0}, None),
        ({"meta": None}, None),
        ({}, None),
    ],
)
def test_what_a_list_says(entry: dict[str, Any], window: int | None) -> None:
    """Under the names of the servers there are; numbers only."""
    assert from_model_list([{"id": "m", **entry}]) == ({"m": window} if window else {})
    assert from_model_list([entry]) == {}, "a model without a name"


@pytest.mark.parametrize(
    ("model", "window"),
    [
        ("gpt-4", 8192),
        ("gpt-4-0613", 8192),
        ("gpt-4-32k-0613", 32768),
        ("gpt-4o-mini", 128_000),
        ("openai/gpt-4o", 128_000),
        ("gpt-5-mini", 400_000),
        ("o1-mini-2024-09-12", 128_000),
        ("o3-pro", 200_000),
        ("llama-3", None),
        ("", None),
    ],
)
def test_what_a_name_says(model: str, window: int | None) -> None:
    """The longest beginning that is known counts."""
    assert from_model_name(model) == window
