"""Which adapters a bot chooses, and what stands for them."""

from __future__ import annotations

import pytest

pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")

from backends.llamacpp.loading.adapters import NO_ADAPTERS, Adapters

pytestmark = pytest.mark.slow  # the import
SCALES = {"poet": 0.5, "rude=1": 0.0, "sea songs": 1.0}
LOADED = {"poet": ("b1", None), "rude=1": ("a1", None), "sea songs": ("c1", None)}
ADAPTERS = Adapters(SCALES, LOADED)


@pytest.mark.parametrize(
    ("wanted", "choice"),
    [
        (None, "b1*0.5 c1*1"),
        ("none", ""),
        (" none ", ""),
        ("poet", "b1*0.5"),
        ("rude=1", "a1*1"),
        ("rude=1=0.25", "a1*0.25"),
        ("sea songs = -2, poet", "b1*0.5 c1*-2"),
        ("poet,sea songs", "b1*0.5 c1*1"),
        ("poet=0", ""),
        ("poet=1,poet=2", "b1*2"),
    ],
)
def test_a_choice_is_hashes_and_scales_in_order(wanted: str | None, choice: str) -> None:
    """In whatever order a bot writes its names."""
    assert ADAPTERS.choose(wanted) == choice


@pytest.mark.parametrize("wanted", ["", ",", "b1", "b1*1", "poet=", "poet=inf", "poet=-101", "=1"])
def test_what_is_no_choice_is_refused(wanted: str) -> None:
    """With the names that can be chosen."""
    with pytest.raises(ValueError, match="lora must be none or some of poet, rude=1, sea songs"):
        ADAPTERS.choose(wanted)


def test_all_of_them_count_for_the_worst_case() -> None:
    """Also those that only bots ask for."""
    assert ADAPTERS.all == "a1*1 b1*1 c1*1"
    assert ADAPTERS.facts() == {"adapters": SCALES}


def test_without_adapters_there_is_nothing_to_choose() -> None:
    """And nothing to say at /status."""
    assert (NO_ADAPTERS.default, NO_ADAPTERS.choose("none"), NO_ADAPTERS.facts()) == ("", "", {})
    with pytest.raises(ValueError, match="no adapter was loaded"):
        NO_ADAPTERS.choose("poet")
