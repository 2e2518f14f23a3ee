"""Which tensors lie elsewhere than their layers, as the options say."""

from __future__ import annotations

import argparse

import pytest

from backends.llamacpp import arguments
from backends.llamacpp.loading import tensor_overrides as module
from kuwa_min.errors import UsageError

NAMES = [
    f"blk.{layer}.{name}.weight"
    for layer in (0, 1, 11)
    for name in ("attn_q", "ffn_gate_inp", "ffn_up_exps", "ffn_gate_up_exps", "ffn_down_chexps")
]
SIZES = dict.fromkeys([*NAMES, "output.weight", "blk.1.ffn_up_shexp.weight"], 1)


def parse(*options: str) -> argparse.Namespace:
    """Return the options of a command line."""
    parser = argparse.ArgumentParser()
    arguments.add_arguments(parser.add_argument)
    return parser.parse_args(["--model_path", "x", *options])


def on_processor(*options: str) -> set[str]:
    """Return the tensors that the options put on the processor."""
    return module.off_cards(SIZES, module.from_arguments(parse(*options)))


def experts(*layers: int) -> set[str]:
    """Return the tensors of the experts of some layers."""
    return {one for one in NAMES if "exps" in one and int(one.split(".")[1]) in layers}


def test_experts_lie_on_the_processor() -> None:
    """Those of all layers or of the first ones; shared ones and routers stay with their layers."""
    assert on_processor() == set()
    assert on_processor("--cpu_moe") == experts(0, 1, 11)
    assert on_processor("--n_cpu_moe", "2") == experts(0, 1)
    assert on_processor("--n_cpu_moe", "0") == set()
    with pytest.raises(UsageError, match="give one of them"):
        on_processor("--cpu_moe", "--n_cpu_moe", "2")


def test_the_first_pattern_that_matches_counts() -> None:
    """Given ones before those of the options for experts."""
    assert on_processor("--override_tensor", "output=cpu") == {"output.weight"}
    given = ("--override_tensor", r"blk\.1\..*exps=CUDA1", "attn=CPU", "--cpu_moe")
    attention = {one for one in NAMES if "attn" in one}
    assert on_processor(*given) == experts(0, 11) | attention


def test_what_matches_nothing_is_known() -> None:
    """By the option that says it."""
    found = module.from_arguments(parse("--override_tensor", "ffn=CPU", "fnn=CUDA0", "--cpu_moe"))
    assert module.without_effect(found, NAMES) == ["--override_tensor fnn=CUDA0"]
    assert module.without_effect(found[2:], ["blk.0.ffn_up.weight"]) == ["--cpu_moe"]


@pytest.mark.parametrize("text", ["exps", "exps=", "=CPU", "", "(=CPU", "*=CPU"])
def test_what_is_no_override_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With what is wrong."""
    with pytest.raises(SystemExit):
        parse("--override_tensor", text)
    error = capsys.readouterr().err
    assert "PATTERN=DEVICE is needed" in error or "is no pattern: " in error
