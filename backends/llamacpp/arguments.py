"""The options of the command line that say how a model is loaded and computed."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from backends._local.options import add_lora_option, add_threads, add_visible_gpu
from kuwa_min.options import types

from .loading import tensor_overrides

UNQUANTIZED = ("f32", "f16")
CACHE_TYPES = (*UNQUANTIZED, "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
MAX_LAYERS = 2**31 - 1
MAX_MOE_LAYERS = 1000
MAX_CONTEXT = 2**24  # tokens; above them llama.cpp wastes memory


def add_arguments(add: Callable[..., Any]) -> None:
    """Add the options; add: a parser's add_argument."""
    add(
        "--model_path",
        required=True,
        metavar="FILE|hf://NAME?FILE",
        help="GGUF file of the model, the first one if there are several, or one in the hub's "
        "cache",
    )
    add_visible_gpu(add)
    add(
        "--ngl",
        type=types.whole_or_auto(-1, MAX_LAYERS),
        default=types.AUTO,
        metavar="N|auto",
        help="layers to compute on graphics cards; -1: all, auto: as many as fit",
    )
    add(
        "--context_window",
        type=types.whole_or_auto(0, MAX_CONTEXT),
        default=4096,
        metavar="TOKENS|auto",
        help="tokens that prompt and answer of a chat may have together; 0: as the model says, "
        "auto: as many of these as fit into memory",
    )
    add(
        "--tensor_split",
        type=_tensor_split,
        default=[],
        metavar="N[,N]",
        help="how much of the model each graphics card gets, such as 3,1",
    )
    add(
        "--override_tensor",
        nargs="+",
        action="extend",
        type=tensor_overrides.parse,
        default=[],
        metavar="PATTERN=DEVICE",
        help="device of the tensors whose names match: CPU, CUDA0... as the log names them",
    )
    add(
        "--cpu_moe",
        action="store_true",
        help="leave the experts of a mixture-of-experts model to the processor, all else to cards",
    )
    add(
        "--n_cpu_moe",
        type=types.whole(0, MAX_MOE_LAYERS),
        metavar="N",
        help="only those of the first N layers",
    )
    add(
        "--flash_attn",
        choices=("auto", "on", "off"),
        default="auto",
        help="compute attention in one go; auto: wherever llama.cpp can",
    )
    add(
        "--cache_type",
        choices=CACHE_TYPES,
        default="f16",
        help="number format of what is remembered of chats; smaller ones need --flash_attn",
    )
    add_threads(add)
    does = "adapter (LoRA) of the model; bots choose by llm_lora, and SCALE 0 leaves it to them"
    add_lora_option(add, "FILE", does)
    add(
        "--mmproj",
        metavar="FILE|hf://NAME?FILE|none",
        help="GGUF file of the part that sees pictures. None: the one beside the model with "
        "mmproj in its name; none: no pictures",
    )


def _tensor_split(text: str) -> list[float]:
    """Parse --tensor_split: numbers with commas between them, such as 3,1."""
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 <= number < float("inf") for number in numbers) or not any(numbers):
        raise argparse.ArgumentTypeError(
            f"numbers with commas between them are needed, none below 0 and one above, not {text!r}"
        )
    return numbers
