"""Check the folder of an adapter of the peft library: that adding it to the weights merges it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from . import safetensors
from .folder_contents import ADAPTER
from .sniff import InvalidModelFile, join_names, printable, read_json

WEIGHTS, PICKLE = "adapter_model.safetensors", "adapter_model.bin"
MERGE_WITH_PEFT = "merge it with the peft library instead: docs/huggingface.md says how"
# Fields that a merge by addition respects, or that change nothing once an adapter is trained.
KNOWN = {
    *("alpha_pattern", "lora_alpha", "r", "rank_pattern", "use_rslora"),
    *("auto_mapping", "base_model_name_or_path", "exclude_modules", "fan_in_fan_out"),
    *("inference_mode", "layers_pattern", "layers_to_transform", "lora_dropout", "megatron_core"),
    *("peft_type", "peft_version", "qalora_group_size", "revision", "target_modules", "task_type"),
    *("runtime_config", "eva_config", "ensure_weight_tying"),
}
# Others, with the values that change nothing; the first is the default.
NEUTRAL = {"bias": ("none",), "init_lora_weights": (True, False, "gaussian", "eva", None)}


class PeftAdapter(NamedTuple):
    """A checked folder of an adapter."""

    folder: Path
    argument: str  # of --lora: a path or a hub name
    scale: float  # times the change of the weights
    config: Mapping[str, Any]  # its adapter_config.json


def check(place: Path) -> dict[str, Any]:
    """Return the configuration of an adapter whose weights are whole; raises InvalidModelFile."""
    if not (place / ADAPTER).is_file():
        raise InvalidModelFile(f"has no {ADAPTER}: it is no adapter of the peft library")
    try:
        config = read_json(place / ADAPTER)
    except InvalidModelFile as error:
        raise InvalidModelFile(f"cannot be loaded: {ADAPTER} {error}") from None
    _check_kind(config)
    if (place / PICKLE).is_file() and not (place / WEIGHTS).exists():
        raise InvalidModelFile(f"has its weights in {PICKLE}, which is not read; {MERGE_WITH_PEFT}")
    try:
        safetensors.check(place / WEIGHTS)
    except InvalidModelFile as error:
        raise InvalidModelFile(f"cannot be loaded: {WEIGHTS} {error}") from None
    return config


def _check_kind(config: dict[str, Any]) -> None:
    """Raise InvalidModelFile for an adapter that is more than a product of two matrices to add."""
    if (kind := config.get("peft_type")) != "LORA":
        raise InvalidModelFile(
            f"is an adapter of the kind {printable(str(kind))}, no LoRA; {MERGE_WITH_PEFT}"
        )
    used = [name for name, value in config.items() if value and name not in KNOWN | NEUTRAL.keys()]
    used += [
        f"{name} {config[name]}"
        for name, values in NEUTRAL.items()
        if config.get(name, values[0]) not in values
    ]
    if used:
        raise InvalidModelFile(
            f"uses {join_names(sorted(used))}, which is not merged here; {MERGE_WITH_PEFT}"
        )
    for name in ("alpha_pattern", "rank_pattern"):
        if not isinstance(config.get(name) or {}, dict):
            raise InvalidModelFile(f"cannot be loaded: {name} of {ADAPTER} is no JSON object")
    if not isinstance(config.get("lora_alpha"), (int, float)):
        raise InvalidModelFile(f"cannot be loaded: lora_alpha of {ADAPTER} is no number")
