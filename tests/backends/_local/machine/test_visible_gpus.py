"""--visible_gpu, for cards of every vendor."""

from __future__ import annotations

import os
import re

import pytest

from backends._local.machine import visible_gpus
from kuwa_min.errors import StartError


def test_every_vendors_variable_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the option, what the operator set stays."""
    for name in visible_gpus.VARIABLES:
        monkeypatch.setenv(name, "3")
    visible_gpus.restrict(None)
    assert {os.environ[name] for name in visible_gpus.VARIABLES} == {"3"}
    visible_gpus.restrict("0,1")
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES"):
        assert os.environ[name] == "0,1"


@pytest.mark.parametrize(("numbers", "found"), [(None, 0), ("0", 1), ("0,1,", 2), ("GPU-1a", 2)])
def test_cards_that_are_here_pass(numbers: str | None, found: int) -> None:
    """By numbers and by CUDA's names; also where the library sees more than it was told."""
    visible_gpus.check(numbers, found)


@pytest.mark.parametrize(
    ("numbers", "found", "names", "said"),
    [
        ("0,9", 1, "CUDA0 (T4)", "--visible_gpu 0,9 names 2 graphics cards; here is 1 of them: "),
        ("9", 0, "", "--visible_gpu 9 names 1 graphics cards; here is none of them"),
    ],
)
def test_a_card_that_is_not_here_is_refused(
    numbers: str, found: int, names: str, said: str
) -> None:
    """With those that are."""
    with pytest.raises(StartError, match=re.escape(said + names) + "$"):
        visible_gpus.check(numbers, found, names)
