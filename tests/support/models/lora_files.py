"""Write LoRA adapters with random weights for any GGUF model: what llama.cpp's converter makes."""

from __future__ import annotations

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
