"""Make a GGUF file of a given size with random weights, in seconds and with numpy alone.

A token of an answer is one character of ASCII, read as the same token again: characters count
tokens, and a second turn's prompt begins with the tokens of the first. The tokens beyond single
bytes make the vocabulary as large as that of a folder of random_model.py; they are never said, and
a greedy answer never ends by chance. Runs as a process of its own.
"""

import ctypes
import sys
from pathlib import Path
from typing import Any

from engines.random_model import SHAPES, SPREAD, Shape
from harness.contestants import ROOT

sys.path.append(str(ROOT))  # for what writes the smallest model, and all that is GGUF

CONTEXT = 16_384
ARCHITECTURE = "llama"


def write_gguf(path: Path, shape: Shape) -> None:
    """Write a file that llama.cpp loads: tokens, template, shape, weights."""
    from tests.support.models import tiny_models

    tokens = [*tiny_models.SPECIAL, *tiny_models.byte_letters()]
    tokens += [f"<{number}>" for number in range(shape.tokens)]
    fields = [
        *_shape_fields(shape),
        *tiny_models.vocabulary_fields(tokens),
        tiny_models.field("tokenizer.chat_template", tiny_models.STRING, tiny_models.TEMPLATE),
    ]
    tensors = _tensors(shape, len(tokens))
    unsaid = range(len(tokens) - shape.tokens, len(tokens))
    tensors["output.weight"][[*tiny_models.never_said(), *unsaid]] = 0
    tiny_models.pack_gguf(path, fields, tensors)
    if shape.is_compact:
        _quantize(path)


def _quantize(path: Path) -> None:
    """Put Q8_0 in place of a file's 32-bit floats."""
    import llama_cpp

    whole = path.rename(path.with_name(f"{path.name}-f32"))
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0
    code = llama_cpp.llama_model_quantize(bytes(whole), bytes(path), ctypes.byref(params))
    whole.unlink()
    if code:
        raise RuntimeError(f"llama_model_quantize() returned {code}")


def _shape_fields(shape: Shape) -> list[bytes]:
    from tests.support.models.tiny_models import F32, STRING, U32, field

    sizes = {
        "context_length": CONTEXT,
        "embedding_length": shape.hidden,
        "block_count": shape.layers,
        "feed_forward_length": shape.inner,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads,
    }
    return [
        field("general.architecture", STRING, ARCHITECTURE),
        *(field(f"{ARCHITECTURE}.{name}", U32, size) for name, size in sizes.items()),
        field(f"{ARCHITECTURE}.attention.layer_norm_rms_epsilon", F32, 1e-5),
    ]


def _tensors(shape: Shape, vocabulary: int) -> dict[str, Any]:
    import numpy

    rng = numpy.random.default_rng(0)
    narrow = shape.hidden // shape.heads * shape.kv_heads
    shapes = {
        "attn_q": (shape.hidden, shape.hidden),
        "attn_k": (narrow, shape.hidden),
        "attn_v": (narrow, shape.hidden),
        "attn_output": (shape.hidden, shape.hidden),
        "ffn_gate": (shape.inner, shape.hidden),
        "ffn_up": (shape.inner, shape.hidden),
        "ffn_down": (shape.hidden, shape.inner),
    }
    matrices = dict.fromkeys(("token_embd", "output"), (vocabulary, shape.hidden))
    norms = ["output_norm"]
    for layer in range(shape.layers):
        matrices |= {f"blk.{layer}.{name}": size for name, size in shapes.items()}
        norms += [f"blk.{layer}.{name}" for name in ("attn_norm", "ffn_norm")]
    return {
        **{f"{name}.weight": numpy.ones(shape.hidden) for name in norms},
        **{f"{name}.weight": _drawn(rng, size) for name, size in matrices.items()},
    }


def _drawn(rng: Any, size: tuple[int, int]) -> Any:
    """Return weights that are wide enough apart that the likeliest token is no near tie."""
    import numpy

    return rng.standard_normal(size, numpy.float32) * numpy.float32(SPREAD)


if __name__ == "__main__":
    write_gguf(Path(sys.argv[1]), SHAPES[sys.argv[2]])
