"""Find the folders that the options name, and check them before anything is loaded."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from backends._local.model_files import hub_cache, quantization, resolve
from backends.huggingface.arguments import DTYPES
from kuwa_min.errors import UsageError

ANSWER = 4096  # tokens of an answer, for an estimate of memory


def load_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of LoadOptions; raises UsageError or StartError for missing files."""
    return {
        "path": _model(args),
        "model_path": args.model_path,
        "tokenizer": _part(args, "tokenizer"),
        "processor": _part(args, "processor"),
        "device": args.device,
        "device_map": args.device_map,
        "visible_gpu": args.visible_gpu,
        "dtype": DTYPES[args.dtype],
        "load_8bits": args.load_8bits,
        "safetensors_only": args.safetensors_only,
        "trust_remote_code": args.trust_remote_code,
        "tokens": args.concurrent_req_limit * (int(args.limit) + ANSWER),
        "adapters": [resolve.peft_adapter(*one) for one in args.lora],
    }


def check_arguments(args: argparse.Namespace, carried: Collection[str] | None) -> Iterator[str]:
    """Yield what --check says of the folders; raises as load_options() does.

    carried: the packages of a file that is not unpacked; None: ask this Python.
    """
    if args.load_8bits:
        check_8bits(carried)
    model = _model(args, carried)
    for name in ("tokenizer", "processor"):
        _part(args, name)
    for one in args.lora:
        resolve.peft_adapter(*one)
    if Path(model).is_dir():
        yield f"good: model {args.model_path}: its files, and the packages that they need, are here"


def check_8bits(carried: Collection[str] | None = None) -> None:
    """Raise StartError if --load_8bits lacks its library; carried: as for check_arguments()."""
    quantization.check_libraries("--load_8bits needs", ("bitsandbytes",), carried)


def _model(args: argparse.Namespace, carried: Collection[str] | None = None) -> str:
    find = partial(
        resolve.transformers_folder,
        safetensors_only=args.safetensors_only,
        needs_tokenizer=not args.tokenizer,
        carried=carried,
    )
    return _locate(args, args.model_path, find)


def _part(args: argparse.Namespace, name: str) -> str | None:
    """Return the folder or hub name of --tokenizer or --processor; None if not given."""
    given = getattr(args, name)
    find = partial(resolve.any_folder, option=f"--{name}")
    return _locate(args, given, find) if given else None


def _locate(args: argparse.Namespace, path: str, find: Callable[[str], Path]) -> str:
    """Return a checked folder, or a name on the hub if the library may fetch from there."""
    if args.online and hub_cache.is_hub_name(path) and not Path(path).exists():
        if "@" in path:
            raise UsageError(
                f"{path}: --online fetches no revision; {hub_cache.how_to_fetch(path)}"
            )
        return path
    return str(find(path))
