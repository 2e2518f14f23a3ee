"""Make tiny but real GGUF models that see pictures: a language model and its mmproj file.

Four kinds, as llama.cpp treats their pictures in four ways: `llava` like tokens of text, `gemma3`
as tokens that see each other, `qwen2vl` at positions in two dimensions (M-RoPE), as many as the
picture is large; `idefics3` cuts a picture into tiles, with text between them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.models import tiny_models
from tests.support.models.tiny_ggufs import KV_HEADS, Weights, vocabulary, write_gguf
from tests.support.models.tiny_models import (
    CONTEXT,
    F32,
    HIDDEN,
    I32,
    STRING,
    U32,
    array,
    field,
    pack_gguf,
    shape_fields,
)

KINDS = ("llava", "gemma3", "qwen2vl")
TILED = "idefics3"
PROJECTORS = {
    "llava": "mlp",
    "gemma3": "gemma3",
    "qwen2vl": "qwen2vl_merger",
    TILED: "idefics3",
}
AROUND_TILES = ("\u010a\u010a", "<fake_token_around_image>", "<global-img>")  # \n\n as bytes
SIDE, PATCH = 56, 7  # of a picture, in pixels: 64 patches
WIDTH, LAYERS, HEADS = 32, 2, 2  # of the part that sees
SPREAD = 0.3
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for part in m['content'] %}{{ part['text'] }}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
F16_DATA = 1
BOOL = 7


def write_model(path: Path, kind: str, *, context: int = CONTEXT) -> Path:
    """Write the language model of a kind; return its path."""
    if kind == TILED:
        return tiny_models.write_gguf(path, template=TEMPLATE, context=context, more=AROUND_TILES)
    if kind != "qwen2vl":
        return write_gguf(path, "llama", template=TEMPLATE, context=context)
    fields = [
        *shape_fields("qwen2vl", context),
        field("qwen2vl.attention.head_count_kv", U32, KV_HEADS),
        array("qwen2vl.rope.dimension_sections", I32, [2, 3, 3, 0]),
    ]
    return pack_gguf(path, [*fields, *vocabulary(TEMPLATE)], Weights().of("qwen2"))


def write_mmproj(path: Path, kind: str, *, width: int = HIDDEN, has_audio: bool = False) -> Path:
    """Write the mmproj file of a kind; width: of the language model's embeddings."""
    encoder = "audio" if has_audio else "vision"
    fields = [
        field("general.architecture", STRING, "clip"),
        field("general.type", STRING, "mmproj"),
        field("clip.projector_type", STRING, PROJECTORS[kind]),
        field(f"clip.has_{encoder}_encoder", BOOL, True),
        field("clip.use_gelu", BOOL, True),
        field("clip.vision.image_size", U32, SIDE),
        field("clip.vision.patch_size", U32, PATCH),
        field("clip.vision.embedding_length", U32, WIDTH),
        field("clip.vision.feed_forward_length", U32, 2 * WIDTH),
        field("clip.vision.block_count", U32, LAYERS),
        field("clip.vision.projection_dim", U32, width),
        field("clip.vision.attention.head_count", U32, HEADS),
        field("clip.vision.attention.layer_norm_epsilon", F32, 1e-5),
        array("clip.vision.image_mean", F32, [0.5, 0.5, 0.5]),
        array("clip.vision.image_std", F32, [0.5, 0.5, 0.5]),
    ]
    if kind in ("gemma3", TILED):
        fields.append(field("clip.vision.projector.scale_factor", U32, 2))
    if kind == TILED:
        fields.append(field("clip.vision.preproc_image_size", U32, 2 * SIDE))
    return pack_gguf(path, fields, _Tower(width).of(kind))


class _Tower:
    """Random weights of the part that sees, the same each time."""

    def __init__(self, width: int) -> None:
        import numpy

        self._numpy, self._rng, self._width = numpy, numpy.random.default_rng(1), width

    def of(self, kind: str) -> dict[str, Any]:
        """Return the tensors of a kind by name."""
        tensors = {
            "v.patch_embd.weight": self._random(WIDTH, 3, PATCH, PATCH),
            **self._norm("v.post_ln", WIDTH),
        }
        for layer in range(LAYERS):
            tensors |= self._layer(f"v.blk.{layer}")
        return tensors | getattr(self, f"_{kind}")()

    def _llava(self) -> dict[str, Any]:
        return {
            **self._positions(),
            "mm.0.weight": self._random(WIDTH, WIDTH),
            "mm.0.bias": self._random(WIDTH),
            "mm.2.weight": self._random(self._width, WIDTH),
            "mm.2.bias": self._random(self._width),
        }

    def _gemma3(self) -> dict[str, Any]:
        return {
            **self._positions(),
            "mm.input_projection.weight": self._random(WIDTH, self._width),
            "mm.soft_emb_norm.weight": self._numpy.ones(WIDTH),
        }

    def _idefics3(self) -> dict[str, Any]:
        return {**self._positions(), "mm.model.fc.weight": self._random(self._width, 4 * WIDTH)}

    def _qwen2vl(self) -> dict[str, Any]:
        return {
            "v.patch_embd.weight.1": self._random(WIDTH, 3, PATCH, PATCH),
            "mm.0.weight": self._random(4 * WIDTH, 4 * WIDTH),
            "mm.0.bias": self._random(4 * WIDTH),
            "mm.2.weight": self._random(self._width, 4 * WIDTH),
            "mm.2.bias": self._random(self._width),
        }

    def _positions(self) -> dict[str, Any]:
        return {"v.position_embd.weight": self._random((SIDE // PATCH) ** 2, WIDTH)}

    def _layer(self, name: str) -> dict[str, Any]:
        parts = {"ffn_up": (2 * WIDTH, WIDTH), "ffn_down": (WIDTH, 2 * WIDTH)}
        parts |= dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_out"), (WIDTH, WIDTH))
        tensors = {**self._norm(f"{name}.ln1", WIDTH), **self._norm(f"{name}.ln2", WIDTH)}
        for part, shape in parts.items():
            tensors[f"{name}.{part}.weight"] = self._random(*shape)
            tensors[f"{name}.{part}.bias"] = self._random(shape[0])
        return tensors

    def _norm(self, name: str, size: int) -> dict[str, Any]:
        return {f"{name}.weight": self._numpy.ones(size), f"{name}.bias": self._numpy.zeros(size)}

    def _random(self, *shape: int) -> Any:
        return self._rng.standard_normal(shape) * SPREAD
