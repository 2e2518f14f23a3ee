"""Find the weights that the transformers library would read in a folder, and check them.

Which files those are: `_get_resolved_checkpoint_files` of transformers/modeling_utils.py.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from . import _safetensors_file
from ._file_start import Unusable, check_start, listed, read_json, shown

INDEX = ".index.json"  # beside weights in several files; it says which tensor is in which
SAFETENSORS = ("model.safetensors", "model.safetensors" + INDEX)
PICKLES = ("pytorch_model.bin", "pytorch_model.bin" + INDEX)
SHARD = re.compile(r"(model|pytorch_model)-\d+-of-(\d+)\.(safetensors|bin)")
ZIP, PICKLE = b"PK\x03\x04", b"\x80"  # how torch's files begin, today's and those before 1.6
MERGED = "is an adapter (LoRA), not a whole model: the model that it was merged into is needed"


class WeightFile(NamedTuple):
    """One file of weights and its bytes."""

    path: Path
    size: int


def find(
    folder: Path, *, named: str | None = None, safetensors_only: bool = False
) -> list[WeightFile]:
    """List the weights, each checked; raises Unusable, whose message follows the folder's name.

    `named` is the file that the model's config names instead of the usual ones.
    """
    files = _names(folder, named, SAFETENSORS if safetensors_only else SAFETENSORS + PICKLES)
    missing = [name for name in files if not (folder / name).exists()]
    if missing:
        raise Unusable(
            f"is incomplete: {len(missing)} of {len(files)} weight files "
            f"{'is' if len(missing) == 1 else 'are'} missing: {listed(missing)}; copy them, too"
        )
    _check_all(folder, files)
    return [WeightFile(folder / name, (folder / name).stat().st_size) for name in files]


def _names(folder: Path, named: str | None, usual: Sequence[str]) -> list[str]:
    """Return the names of the weights below the folder, which need not be there."""
    if named is not None and not _is_inside(named):
        raise Unusable(f"has a config.json that names {shown(named)}, which is no file of it")
    for name in (named,) if named is not None else usual:
        if (folder / name).is_file():
            return _indexed(folder / name) if name.endswith(INDEX) else [name]
    there = {entry.name for entry in folder.iterdir()}
    no_files = [name for name in usual if name in there]  # a link that leads nowhere, a pipe
    if named is not None or no_files:
        return [named or no_files[0]]
    raise Unusable(_nothing(folder, sorted(there)))


def _nothing(folder: Path, names: Sequence[str]) -> str:
    """Say what the folder holds instead of weights."""
    shards = [found for found in map(SHARD.fullmatch, names) if found]
    for shard in shards:
        index = f"{shard[1]}.{shard[3]}{INDEX}"
        if index not in names:
            return f"has {shard[0]}, but no {index}, which says what is in it; copy it, too"
    if any(name in names for name in PICKLES):
        return (
            "has its weights in .bin files only, which --safetensors_only refuses: without that "
            "option they are read by torch's own careful reader"
        )
    if any(name.endswith(".gguf") for name in names):
        return f"has no weights but GGUF files; use `llamacpp --model_path {folder}/NAME.gguf`"
    if "adapter_config.json" in names:
        return MERGED
    others = [name for name in names if name.endswith((".safetensors", ".bin", ".h5", ".pth"))]
    instead = f"; the library does not read {listed(others)}" if others else ""
    return (
        "has no weights beside its config.json: model.safetensors, or several files and "
        f"model.safetensors.index.json, or the same as pytorch_model.bin{instead}"
    )


def _indexed(index: Path) -> list[str]:
    """Return the names of the files that an index knows; raises Unusable for a damaged index."""
    try:
        named = read_json(index).get("weight_map")
        if not isinstance(named, dict) or not named:
            raise Unusable("has no weight_map; copy it again")
        names = set(named.values())
        for name in names:
            if not _is_inside(name):
                raise Unusable(f"names {shown(str(name))}, which is no file of this folder")
    except Unusable as error:
        raise Unusable(f"cannot be loaded: {index.name} {error}") from None
    except TypeError:  # a list or an object for a name
        raise Unusable(f"cannot be loaded: {index.name} has a damaged weight_map") from None
    return sorted(names)


def _is_inside(name: object) -> bool:
    if not isinstance(name, str) or "\0" in name or "\\" in name:
        return False
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _check_all(folder: Path, names: Sequence[str]) -> None:
    """Raise Unusable for the first damaged file, and name the others."""
    wrong = {}
    for name in names:
        check = _safetensors_file.check if name.endswith(".safetensors") else _check_pickle
        try:
            check(folder / name)
        except Unusable as error:
            wrong[name] = str(error)
    if wrong:
        (first, reason), *others = wrong.items()
        more = f" (damaged, too: {listed([name for name, _ in others])})" if others else ""
        raise Unusable(f"cannot be loaded: {shown(first)} {reason}{more}")


def _check_pickle(path: Path) -> None:
    head = check_start(path)
    if head.startswith(ZIP):
        if not zipfile.is_zipfile(path):
            raise Unusable(
                f"is truncated: {path.stat().st_size:,} bytes are there, but not the archive's "
                "end; copy it again"
            )
    elif not head.startswith(PICKLE):
        raise Unusable(f"is no file of torch: it begins with {head[:8]!r}; copy it again")
