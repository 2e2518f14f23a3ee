"""The options of the command line that say how a model is loaded and computed."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from backends._local.options import add_lora_option, add_threads, add_visible_gpu
from kuwa_min.options.types import from_json

DTYPES = {  # by the names that Kuwa's --torch_dtype has
    "auto": "auto",
    "float32": "float32",
    "fp32": "float32",
    "float16": "float16",
    "fp16": "float16",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
}


def add_arguments(add: Callable[..., Any]) -> None:
    """Add the options; add: a parser's add_argument."""
    add(
        "--model_path",
        required=True,
        metavar="FOLDER|NAME",
        help="folder of the model, or its name in the hub's cache: owner/name",
    )
    add("--tokenizer", metavar="FOLDER|NAME", help="tokenizer; None: the model's own")
    add("--processor", metavar="FOLDER|NAME", help="of pictures; None: the model's own")
    add_visible_gpu(add)
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add(
        "--device_map",
        type=_device_map,
        metavar="NAME|JSON",
        help="where parts of the model go, as accelerate has it; None: as --device says",
    )
    add(
        "--dtype",
        "--torch_dtype",
        default="auto",
        choices=DTYPES,
        help="number format; auto: the model's own",
    )
    add(
        "--cuda_graphs",
        default="on",
        choices=("on", "off"),
        help="launch the kernels of a decode step at once; off: one by one, slower",
    )
    add(
        "--paged_attention",
        default="on",
        choices=("on", "off"),
        help="attention on a GPU that reads no padding, over a KV cache in pages",
    )
    add_threads(add)
    does = "adapter (LoRA) of the peft library to merge into the weights"
    add_lora_option(add, "FOLDER|NAME", does)
    add("--load_8bits", action="store_true", help="load weights in 8 bits (bitsandbytes)")
    add("--safetensors_only", action="store_true", help="refuse weights in .bin files")
    add(
        "--trust_remote_code",
        action="store_true",
        help="run Python code that comes with the model; it may do anything",
    )
    add(
        "--online",
        action="store_true",
        help="let the library use the internet; --model_path may then be a name on its hub",
    )


def _device_map(text: str) -> str | dict[str, Any]:
    """Parse --device_map: a name, a JSON object, or the number of a GPU."""
    value = from_json(text.strip())
    if isinstance(value, dict):
        return value
    if not value or not isinstance(value, str) or value.startswith("{"):
        raise argparse.ArgumentTypeError(f"a name or a JSON object is needed, not {text!r}")
    return f"cuda:{value}" if value.isdecimal() else value
