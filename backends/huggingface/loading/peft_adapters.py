"""Merge adapters (LoRA) of the peft library into a loaded model's weights.

A module's weights become W + scale * B @ A, as peft's own merge_and_unload() computes them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import load_file
from transformers.pytorch_utils import Conv1D

from backends._local.model_files.peft_folder import MERGE_WITH_PEFT, WEIGHTS, PeftAdapter
from backends._local.model_files.sniff import join_names, printable
from kuwa_min.errors import StartError

logger = logging.getLogger(__name__)

TENSOR = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")


def merge(model: Any, adapters: Sequence[PeftAdapter]) -> None:
    """Merge adapters into a model one after the other; raises StartError."""
    for adapter in adapters:
        pairs = _pairs(adapter)
        modules = dict(model.named_modules())
        targets = {name: _target(modules, name, model, adapter) for name in pairs}
        for name, (first, second) in pairs.items():
            scale = adapter.scale * _scale(adapter.config, name, first.shape[0])
            _add(
                targets[name], first, second, scale, f"--lora {adapter.argument}: {printable(name)}"
            )
        base = printable(str(adapter.config.get("base_model_name_or_path") or "a model"))
        logger.info(
            "merged %s, an adapter for %s, into %d modules, scale %g",
            *(adapter.argument, base, len(pairs), adapter.scale),
        )


def _pairs(adapter: PeftAdapter) -> dict[str, list[torch.Tensor]]:
    """Return the matrices A [rank, inputs] and B [outputs, rank] of each module, by its name."""
    tensors = load_file(adapter.folder / WEIGHTS)
    found = {name: TENSOR.fullmatch(name) for name in sorted(tensors)}
    pairs: dict[str, list[torch.Tensor]] = {}
    for name, parts in found.items():
        if parts:
            pairs.setdefault(parts[1], []).append(tensors[name].to(torch.float32))
    others = [name for name, parts in found.items() if not parts]
    others += [name for name, both in pairs.items() if len(both) != 2]
    if others or not pairs:
        named = join_names(others) or "no matrices"
        raise StartError(
            f"--lora {adapter.argument} holds {named}, which is not merged here; {MERGE_WITH_PEFT}"
        )
    return pairs


def _target(modules: Mapping[str, Any], name: str, model: Any, adapter: PeftAdapter) -> Any:
    """Return the module that a pair of matrices changes; raises StartError if it cannot."""
    place = f"--lora {adapter.argument} changes {printable(name)}"
    if name not in modules:
        raise StartError(
            f"{place}, which {type(model).__name__} does not have: it was made for another model"
        )
    module = modules[name]
    if type(module) not in (torch.nn.Linear, Conv1D) or not module.weight.is_floating_point():
        raise StartError(
            f"{place}, whose weights are quantised or of another kind ({type(module).__name__}): "
            "they are not merged here"
        )
    if module.weight.device.type == "meta":
        raise StartError(f"{place}, whose weights have no place in memory; choose another device")
    if module.weight is model.get_input_embeddings().weight:
        raise StartError(f"{place}, whose weights are the embeddings, too; {MERGE_WITH_PEFT}")
    return module


def _scale(config: Mapping[str, Any], name: str, rank: int) -> float:
    """Return alpha / rank of a module, or alpha / sqrt(rank) if the adapter says so."""
    alpha = config["lora_alpha"]
    for pattern, other in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            alpha = other
            break
    return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)


@torch.no_grad()
def _add(module: Any, first: torch.Tensor, second: torch.Tensor, scale: float, place: str) -> None:
    """Add scale * B @ A to a module's weights; first: A, second: B."""
    weight = module.weight
    shape = weight.T.shape if isinstance(module, Conv1D) else weight.shape
    if first.dim() != 2 or (second.shape[0], first.shape[1]) != shape or second.dim() != 2:
        raise StartError(f"{place} has other sizes than this model: it was made for another one")
    change = second.to(weight.device) @ first.to(weight.device) * scale
    weight += change.T if isinstance(module, Conv1D) else change  # rounded once, after the sum
    if not torch.isfinite(weight).all():
        raise StartError(f"{place} makes numbers that are too large; lower its SCALE")
