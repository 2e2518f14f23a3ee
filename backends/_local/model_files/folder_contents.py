"""Say what a folder holds that is no model for the library: by the names in it.

Each answer is a clause about "it", the folder: what it holds, and what to do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import pieces
from .foreign_files import ARCHIVES, CONTROL, UNFINISHED
from .sniff import InvalidModelFile, join_names, printable, read_json

CONFIG, ADAPTER = "config.json", "adapter_config.json"
CHECKPOINT = re.compile(r"checkpoint-(\d+)")  # of a trainer, by its step
LATER_PART = re.compile(r".*-(?!00001)\d{5}-of-\d{5}\.gguf", re.DOTALL)
MAX_DEPTH = 3  # levels of folders in which a model is searched: a hub's cache has two
MAX_FOLDERS = 1000  # of a level
TAKE = "take the model as safetensors"
FAMILIES = (  # names of files -> what they are
    (r"model_index\.json", "it holds a pipeline of diffusers, which makes pictures, no text"),
    (
        r"consolidated.*\.(pth|safetensors)|params\.json",
        "it holds weights as Meta and Mistral lay them out (consolidated..., params.json); take "
        "the same model in the format of transformers, which the hub has too, often with -hf "
        "behind its name",
    ),
    (r".*\.onnx(_data)?", f"it holds an ONNX model, which nothing here runs; {TAKE}"),
    (r"openvino.*\.xml", f"it holds an OpenVINO model, which nothing here runs; {TAKE}"),
    (r".*\.(h5|msgpack)", f"it holds weights of TensorFlow or Flax; {TAKE}"),
    (r"weights(\.\d+)?\.npz", f"it holds weights for MLX (Apple); {TAKE}"),
    (
        r".*\.(engine|litertlm|mlmodel|nemo|pte|rkllm|task|tflite)|model\.bin",
        f"it holds {{}}, for another program; {TAKE}",
    ),
)


def instead_of_config(folder: Path, names: Sequence[str]) -> str:
    """Return what a folder without config.json holds; names: all in it, sorted."""
    if said := _known(folder, names) or _unfinished(folder, names):
        return said
    below = _models_below(folder)
    if below and all(CHECKPOINT.fullmatch(one.name) for one in below):
        return _newest(below)
    if len(below) == 1:
        return f"the model's folder is {printable(str(below[0]))}"
    if below:
        return f"the model may be {join_names([str(one) for one in below])}"
    if any(one.endswith((".safetensors", ".bin")) for one in names):
        return "it holds weights; copy the model's other files, too"
    return _archive(names) or "it is no model folder that the transformers library can read"


def instead_of_weights(folder: Path, names: Sequence[str]) -> str:
    """Return what a folder with a config.json holds instead of weights; "" if that is unknown."""
    return _unfinished(folder, names) or _known(folder, names) or _archive(names)


def instead_of_gguf(folder: Path, names: Sequence[str]) -> str:
    """Return which GGUF files a folder holds that can be loaded, or what it holds instead."""
    found = [str(folder / one) for one in language_models(names)]
    if found:
        return join_names(found)
    if CONFIG in names:
        return f"use `huggingface --model_path {folder}` for a folder of the transformers library"
    said = pieces.find(folder, names) or _unfinished(folder, names) or _archive(names)
    return said or "it holds none"


def language_models(names: Sequence[str]) -> list[str]:
    """Return the names of GGUF files without those of mmproj files and of later parts."""
    ggufs = [one for one in names if one.endswith(".gguf") and not LATER_PART.fullmatch(one)]
    return [one for one in ggufs if "mmproj" not in one.lower()] or ggufs


def adapter(folder: Path) -> str:
    """Return what to do with a folder that holds an adapter of the peft library."""
    try:
        base = read_json(folder / ADAPTER).get("base_model_name_or_path")
    except InvalidModelFile:
        base = None
    of = f" for {printable(base)}" if isinstance(base, str) and base else ""
    return (
        f"an adapter (LoRA){of}, not a whole model: give the model as --model_path, and this "
        "folder as --lora"
    )


def _known(folder: Path, names: Sequence[str]) -> str:
    if ADAPTER in names:
        return f"it is {adapter(folder)}"
    if ggufs := language_models(names):
        return (
            f"it holds GGUF files; use `llamacpp --model_path {printable(str(folder / ggufs[0]))}`"
        )
    for pattern, said in FAMILIES:
        for name in names:
            if re.fullmatch(pattern, name):
                return said.format(printable(name))
    return ""


def _unfinished(folder: Path, names: Sequence[str]) -> str:
    found = [one for one in names if one.lower().endswith((*UNFINISHED, CONTROL))]
    downloads = folder / ".cache" / "huggingface" / "download"  # of `hf download --local-dir`
    if not found and downloads.is_dir():
        found = [one.name for one in downloads.glob("**/*.incomplete")]
    if not found:
        return ""
    return f"downloads into it have not ended ({join_names(found)}); fetch the model again"


def _archive(names: Sequence[str]) -> str:
    found = [one for one in names if one.lower().endswith(ARCHIVES)]
    return f"it holds an archive, {printable(found[0])}; unpack that first" if found else ""


def _newest(checkpoints: Sequence[Path]) -> str:
    newest = max(checkpoints, key=lambda one: int(one.name.rpartition("-")[2]))
    place = printable(str(newest))
    if (newest / CONFIG).is_file():
        return f"it holds checkpoints of a training; the newest is {place}"
    return f"it holds checkpoints of a training; the newest, {place}, is {adapter(newest)}"


def _models_below(folder: Path) -> list[Path]:
    """Return the model folders on the first level below this one that has any."""
    level = [folder]
    for _ in range(MAX_DEPTH):
        level = [one for above in level for one in _subfolders(above)][:MAX_FOLDERS]
        found = [one for one in level if (one / CONFIG).is_file() or (one / ADAPTER).is_file()]
        if found:
            return found
    return []


def _subfolders(folder: Path) -> Iterator[Path]:
    """Yield the folders in this one, but for links, which could form a loop."""
    try:
        with os.scandir(folder) as entries:
            yield from sorted(Path(one) for one in entries if one.is_dir(follow_symlinks=False))
    except OSError:
        return
