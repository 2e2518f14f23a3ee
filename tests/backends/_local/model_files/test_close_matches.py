"""Suggestions for misspelt names."""

from __future__ import annotations

import pytest

from backends._local.model_files.close_matches import close_matches

KNOWN = ("Llama-3.1-8B-Instruct", "Qwen3-8B", "qwen3-0.6b", "gemma")


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("Qwen3-8b", ["Qwen3-8B", "qwen3-0.6b"]),
        ("GEMMA", ["gemma"]),
        ("gema", ["gemma"]),
        ("llama-3.1", ["Llama-3.1-8B-Instruct"]),
        ("8b", []),
        ("", []),
        ("phi", []),
    ],
)
def test_names_are_near_by_their_letters_or_as_a_part(written: str, found: list[str]) -> None:
    """Best first, without regard to case; two letters are in too many names."""
    assert close_matches(written, KNOWN) == found


def test_names_that_differ_in_case_alone_are_all_named() -> None:
    """As many as there is room for."""
    cases = ["MODEL", "Model", "model", "mOdel"]
    assert close_matches("model", cases) == cases[:3]
