"""List the files of a model that goes into a file or a kit, following symbolic links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from kuwa_min.errors import UsageError

SHARD = re.compile(r"(.*-)\d{5}-of-(\d{5})\.gguf")
MMPROJ = re.compile(r"mmproj.*\.gguf$", re.IGNORECASE)


class ModelFile(NamedTuple):
    """One file of a model, and its path relative to the model's folder."""

    source: Path
    path: str


def model_files(model: Path) -> list[ModelFile]:
    """List the files of a folder, or of a .gguf, its other shards and the part that sees pictures.

    That part is the only file beside it with mmproj in its name. Raises UsageError.
    """
    if model.is_dir():
        found = [(path, path.relative_to(model).as_posix()) for path in _walk(model, ())]
    elif model.is_file() and model.suffix == ".gguf":
        found = [(path, path.name) for path in (*_shards(model), *_mmproj(model))]
    else:
        raise UsageError(f"{model} is neither a folder with a model nor a .gguf file")
    if not found:
        raise UsageError(f"{model} is empty: a folder with a model is needed")
    for path, name in found:
        if "\\" in name or ":" in name.partition("/")[0]:
            raise UsageError(f"{path}: a backslash, or a colon at the top, cannot be in its name")
    return [ModelFile(path, name) for path, name in found]


def _walk(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """Yield the files below a folder, following links, of which the caches of hubs consist."""
    real = folder.resolve()
    if real in above:
        raise UsageError(f"{folder} leads back to itself: it cannot be copied")
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.name.startswith("."):
                continue  # left by downloads: .cache, and .git with a second copy of the weights
            yield from _walk(path, (*above, real))
        elif path.is_file():
            yield path
        else:
            raise UsageError(f"{path} leads nowhere, or is neither a file nor a folder")


def _shards(model: Path) -> list[Path]:
    """Return the file, or all shards of its set: name-00001-of-00003.gguf."""
    shard = SHARD.fullmatch(model.name)
    if shard is None:
        return [model]
    start, count = shard[1], shard[2]
    found = [
        model.with_name(f"{start}{number:05}-of-{count}.gguf")
        for number in range(1, int(count) + 1)
    ]
    missing = [path.name for path in found if not path.is_file()]
    if missing:
        raise UsageError(f"{model} is one of {int(count)} files; {missing[0]} is missing")
    return found


def _mmproj(model: Path) -> list[Path]:
    """Return the file beside a model with the part that sees pictures, if it is the only one."""
    found = [
        path
        for path in model.parent.iterdir()
        if MMPROJ.search(path.name) and path != model and path.is_file()
    ]
    return found if len(found) == 1 else []
