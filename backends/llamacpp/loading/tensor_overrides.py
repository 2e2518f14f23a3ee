"""The tensors that lie elsewhere than their layers: --override_tensor, --cpu_moe, --n_cpu_moe.

In a mixture-of-experts model (MoE) the experts are most of the file, and each token reads a few of
them: with experts on the processor and all else on a card, a large model may fit, and be fast.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from kuwa_min.errors import UsageError

PROCESSOR = "CPU"
EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"  # as llama.cpp's own programs have it


class TensorOverride(NamedTuple):
    """The device of the tensors whose names match; option: that states it, for messages."""

    pattern: str
    device: str
    option: str

    @property
    def is_on_processor(self) -> bool:
        """Tell whether the processor computes with them."""
        return self.device.upper() == PROCESSOR


def parse(text: str) -> TensorOverride:
    """Parse PATTERN=DEVICE of --override_tensor; raises ArgumentTypeError."""
    pattern, _, device = text.rpartition("=")
    try:
        re.compile(pattern)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{pattern!r} is no pattern: {error}") from None
    if not (pattern and device):
        raise argparse.ArgumentTypeError(f"PATTERN=DEVICE is needed, not {text!r}")
    return TensorOverride(pattern, device, f"--override_tensor {text}")


def from_arguments(args: argparse.Namespace) -> list[TensorOverride]:
    """Return the overrides of a command line; for each tensor, the first that matches counts."""
    if args.cpu_moe and args.n_cpu_moe is not None:
        raise UsageError("--cpu_moe is for all layers, --n_cpu_moe for some; give one of them")
    found: list[TensorOverride] = list(args.override_tensor)
    if args.cpu_moe:
        found.append(TensorOverride(EXPERTS, PROCESSOR, "--cpu_moe"))
    if args.n_cpu_moe:
        layers = "|".join(map(str, range(args.n_cpu_moe)))
        option = f"--n_cpu_moe {args.n_cpu_moe}"
        found.append(TensorOverride(rf"blk\.({layers}){EXPERTS}", PROCESSOR, option))
    return found


def without_effect(overrides: Sequence[TensorOverride], names: Collection[str]) -> list[str]:
    """Return the options that match none of a model's tensors."""
    return [
        one.option for one in overrides if not any(re.search(one.pattern, name) for name in names)
    ]


def off_cards(sizes: Mapping[str, int], overrides: Sequence[TensorOverride]) -> set[str]:
    """Return the names of the tensors that overrides put on the processor; sizes: by name."""
    found = set()
    for name in sizes:
        match = next((one for one in overrides if re.search(one.pattern, name)), None)
        if match is not None and match.is_on_processor:
            found.add(name)
    return found
