"""Write adapters (LoRA) with random weights: as llama.cpp's converter and the peft library do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.models.tiny_models import F32, STRING, field, pack_gguf

RANK = 4
EVERY = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def write_lora_gguf(
    path: Path,
    model: Path,
    *,
    seed: int = 1,
    strength: float = 1.0,
    modules: Sequence[str] = EVERY,
    fields: Sequence[bytes] | None = None,
    more: dict[str, Any] | None = None,
) -> Path:
    """Write an adapter for the layers of a GGUF model; return its path.

    strength: of the change of the weights, 1.0 for as much as the weights themselves; modules:
    which it changes; fields: instead of those of its head; more: further tensors.
    """
    import gguf
    import numpy

    reader = gguf.GGUFReader(model)
    rng = numpy.random.default_rng(seed)
    tensors: dict[str, Any] = {}
    for tensor in reader.tensors:
        if any(f".{name}." in tensor.name and tensor.name.endswith("weight") for name in modules):
            columns, rows, *experts = (int(size) for size in tensor.shape)
            spread = (strength / columns / RANK) ** 0.5
            shapes = {"lora_a": (*experts, RANK, columns), "lora_b": (*experts, rows, RANK)}
            for suffix, shape in shapes.items():
                tensors[f"{tensor.name}.{suffix}"] = rng.standard_normal(shape) * spread
    name = reader.get_field("general.architecture").contents()  # type: ignore[union-attr]
    head = lora_fields(str(name)) if fields is None else fields
    return pack_gguf(path, head, {**tensors, **(more or {})})


def lora_fields(architecture: str, kind: str = "lora") -> list[bytes]:
    """Return the head of an adapter for models of an architecture."""
    return [
        field("general.type", STRING, "adapter"),
        field("general.architecture", STRING, architecture),
        field("adapter.type", STRING, kind),
        field("adapter.lora.alpha", F32, float(RANK)),
    ]


def write_peft_folder(
    path: Path,
    model: Any,
    *,
    modules: Sequence[str] = ("q_proj", "v_proj"),
    strength: float = 1.0,
    more: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """Write an adapter for a model of transformers, as the peft library saves one; return its path.

    modules: the last parts of the names of those that it changes; more: further tensors; changes:
    of its configuration.
    """
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(1)
    tensors = dict(more or {})
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in modules:
            rows, columns = module.out_features, module.in_features
            spread = (strength / columns / RANK) ** 0.5
            start = f"base_model.model.{name}.lora"
            tensors[f"{start}_A.weight"] = torch.randn(RANK, columns) * spread
            tensors[f"{start}_B.weight"] = torch.randn(rows, RANK) * spread
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": list(modules)}
    path.mkdir()
    (path / "adapter_config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    save_file(tensors, path / "adapter_model.safetensors")
    return path
