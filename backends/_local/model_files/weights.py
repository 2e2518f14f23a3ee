"""Find and check the weight files that transformers would load from a folder.

How it chooses them: `_get_resolved_checkpoint_files` of transformers/modeling_utils.py.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from . import safetensors
from .folder_contents import instead_of_weights
from .sniff import InvalidModelFile, join_names, printable, read_head, read_json

INDEX = ".index.json"  # of weights in several files (shards): which tensor is in which
SAFETENSORS = ("model.safetensors", "model.safetensors" + INDEX)
PICKLES = ("pytorch_model.bin", "pytorch_model.bin" + INDEX)
SHARD = re.compile(r"(model|pytorch_model)-\d+-of-(\d+)\.(safetensors|bin)")
ZIP, PICKLE = b"PK\x03\x04", b"\x80"  # first bytes of torch's files, since 1.6 and before


class WeightFile(NamedTuple):
    """A weight file and its size in bytes."""

    path: Path
    size: int


def find(
    folder: Path, *, named: str | None = None, safetensors_only: bool = False
) -> list[WeightFile]:
    """Return the weight files, each checked; raises InvalidModelFile about the folder.

    named: the file that the model's config states instead of the usual ones.
    """
    files = _names(folder, named, SAFETENSORS if safetensors_only else SAFETENSORS + PICKLES)
    missing = [name for name in files if not (folder / name).exists()]
    if missing:
        raise InvalidModelFile(
            f"is incomplete: {len(missing)} of {len(files)} weight files "
            f"{'is' if len(missing) == 1 else 'are'} missing: {join_names(missing)}; copy them, too"
        )
    _check_all(folder, files)
    return [WeightFile(folder / name, (folder / name).stat().st_size) for name in files]


def _names(folder: Path, named: str | None, usual: Sequence[str]) -> list[str]:
    """Return the names of the weight files, which need not exist."""
    if named is not None and not _is_inside(named):
        raise InvalidModelFile(
            f"has a config.json that names {printable(named)}, which is no file of it"
        )
    for name in (named,) if named is not None else usual:
        if (folder / name).is_file():
            return _shards(folder / name) if name.endswith(INDEX) else [name]
    there = {entry.name for entry in folder.iterdir()}
    no_files = [name for name in usual if name in there]  # a broken link, a pipe
    if named is not None or no_files:
        return [named or no_files[0]]
    raise InvalidModelFile(_no_weights(folder, sorted(there)))


def _no_weights(folder: Path, names: Sequence[str]) -> str:
    """Return the message about a folder without weights, by what it contains instead."""
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
    if said := instead_of_weights(folder, names):
        return f"has no weights beside its config.json: {said}"
    others = [name for name in names if name.endswith((".safetensors", ".bin", ".h5", ".pth"))]
    instead = f"; the library does not read {join_names(others)}" if others else ""
    return (
        "has no weights beside its config.json: model.safetensors, or several files and "
        f"model.safetensors.index.json, or the same as pytorch_model.bin{instead}"
    )


def _shards(index: Path) -> list[str]:
    """Return the names of the shards that an index lists; raises InvalidModelFile."""
    try:
        named = read_json(index).get("weight_map")
        if not isinstance(named, dict) or not named:
            raise InvalidModelFile("has no weight_map; copy it again")
        names = set(named.values())
        for name in names:
            if not _is_inside(name):
                raise InvalidModelFile(
                    f"names {printable(str(name))}, which is no file of this folder"
                )
    except InvalidModelFile as error:
        raise InvalidModelFile(f"cannot be loaded: {index.name} {error}") from None
    except TypeError:  # a list or an object for a name
        raise InvalidModelFile(f"cannot be loaded: {index.name} has a damaged weight_map") from None
    return sorted(names)


def _is_inside(name: object) -> bool:
    if not isinstance(name, str) or "\0" in name or "\\" in name:
        return False
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _check_all(folder: Path, names: Sequence[str]) -> None:
    """Raise InvalidModelFile about the first damaged file, naming the others."""
    wrong = {}
    for name in names:
        check = safetensors.check if name.endswith(".safetensors") else _check_pickle
        try:
            check(folder / name)
        except InvalidModelFile as error:
            wrong[name] = str(error)
    if wrong:
        (first, reason), *others = wrong.items()
        more = f" (damaged, too: {join_names([name for name, _ in others])})" if others else ""
        raise InvalidModelFile(f"cannot be loaded: {printable(first)} {reason}{more}")


def _check_pickle(path: Path) -> None:
    head = read_head(path)
    if head.startswith(ZIP):
        if not zipfile.is_zipfile(path):
            raise InvalidModelFile(
                f"is truncated: {path.stat().st_size:,} bytes are there, but not the archive's "
                "end; copy it again"
            )
    elif not head.startswith(PICKLE):
        raise InvalidModelFile(f"is no file of torch: it begins with {head[:8]!r}; copy it again")
