"""Say in one line what is wrong with --model_path, before anything slow is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from kuwa_min.errors import UsageError

from . import _gguf_file, _hub_cache, _quantization, _weight_files
from ._file_start import Unusable, check_stand_in, listed, read_json, shown
from ._near import near

HUB_FILE = "hf://"  # begins the address of a file in the hub's cache: hf://owner/name?file
CONFIG, ADAPTER = "config.json", "adapter_config.json"
# What a tokenizer is made of, and the small files beside it that the library reads.
TOKENIZERS = ("*token*", "*vocab*", "merges.txt", "*.model", "*.tiktoken", "tekken.json")
SETTINGS = ("generation_config.json", "*processor_config.json", "special_tokens_map.json")
DEPTH = 3  # folders below the given one in which a model is looked for: a hub's cache has two
MOST_FOLDERS = 1000


def folder(path: str, *, safetensors_only: bool = False, needs_tokenizer: bool = True) -> Path:
    """Return the transformers folder that a path or a cached hub name means.

    needs_tokenizer: false if it is taken from elsewhere.
    Raises UsageError saying what is wrong with it, StartError if a library for it is missing.
    """
    check = partial(_checked, safetensors_only=safetensors_only, needs_tokenizer=needs_tokenizer)
    if _is_of_hub(path):
        return _checked_snapshot(path, check)
    place = _existing(path)
    if not place.is_dir():
        hint = "; `llamacpp` runs GGUF files" if _begins_with(place, _gguf_file.MAGIC) else ""
        raise UsageError(f"--model_path {path} is a file; the model's folder is needed{hint}")
    return check(place, path)


def other_folder(path: str, option: str) -> Path:
    """Return the folder that a path or a cached hub name means, whatever is in it.

    option: the one that named it, for the UsageError that says what is wrong.
    """
    try:
        place = _hub_cache.hub_folder(path) if _is_of_hub(path) else _existing(path)
    except UsageError as error:
        raise UsageError(str(error).replace("--model_path", option)) from None
    if not place.is_dir():
        raise UsageError(f"{option} {path} is a file; a folder is needed")
    return place


def gguf(path: str) -> Path:
    """Return the whole GGUF file that a path or hf://owner/name?file means.

    Raises UsageError saying what is wrong with it.
    """
    place = _hub_gguf(path) if path.startswith(HUB_FILE) else _existing(path)
    try:
        if place.is_dir():
            raise Unusable(f"is a folder; a GGUF file is needed: {_ggufs(place)}")
        _gguf_file.check(place)
    except Unusable as error:
        raise UsageError(f"--model_path {path} {error}") from None
    return place


def _hub_gguf(address: str) -> Path:
    repository, _, file = address.removeprefix(HUB_FILE).partition("?")
    if not (repository and file):
        raise UsageError(f"--model_path {address} is incomplete: hf://owner/name?file is needed")
    return _hub_cache.hub_file(repository, file)


def _checked_snapshot(name: str, check: Callable[[Path, str], Path]) -> Path:
    snapshot = _hub_cache.hub_folder(name)
    try:
        return check(snapshot, name)
    except UsageError as error:  # only a part of it may have been fetched
        raise UsageError(f"{error}; {_hub_cache.how_to_fetch(name)}") from None


def _checked(place: Path, path: str, *, safetensors_only: bool, needs_tokenizer: bool) -> Path:
    try:
        config = _config(place)
        named = config.get("transformers_weights")
        _weight_files.find(
            place,
            named=named if isinstance(named, str) else None,
            safetensors_only=safetensors_only,
        )
        if needs_tokenizer:
            _check_tokenizer(place)
    except Unusable as error:
        raise UsageError(f"--model_path {path} {error}") from None
    except OSError as error:
        raise UsageError(f"--model_path {path} cannot be read: {error.strerror}") from None
    _quantization.check(config)
    return place


def _config(place: Path) -> dict[str, Any]:
    names = _names(place)
    if CONFIG not in names:
        raise Unusable(f"has no {CONFIG}: {_contents(place, names)}")
    try:
        return read_json(place / CONFIG)
    except Unusable as error:
        raise Unusable(f"cannot be loaded: {CONFIG} {error}") from None


def _check_tokenizer(place: Path) -> None:
    """Raise Unusable if no tokenizer is there, or a file of it is not what its name says."""
    found = sorted({one for pattern in TOKENIZERS for one in place.glob(pattern)})
    if not found:
        raise Unusable(
            f"has no tokenizer beside its {CONFIG}: tokenizer.json or others; copy "
            "them, or give --tokenizer"
        )
    for file in [*found, *(one for pattern in SETTINGS for one in place.glob(pattern))]:
        if file.is_dir():
            continue
        try:
            check_stand_in(file)
        except Unusable as error:
            raise Unusable(f"cannot be loaded: {shown(file.name)} {error}") from None


def _is_of_hub(path: str) -> bool:
    """Tell whether a path means a model of the hub: nothing is there, and it may be a name."""
    if os.path.lexists(path):
        return False
    if _hub_cache.is_cached(path):
        return True
    here, first = _listing(Path()), path.partition("/")[0]
    return _hub_cache.is_hub_name(path) and not (first in here or near(first, here))


# -- paths


def _existing(path: str) -> Path:
    try:
        place = Path(path).expanduser()
        place.stat()
    except FileNotFoundError:
        raise UsageError(f"--model_path {path} does not exist: {_missing(place)}") from None
    except OSError as error:
        raise UsageError(f"--model_path {path} cannot be read: {error.strerror}") from None
    except (ValueError, RuntimeError) as error:  # a zero byte; the home of an unknown user
        raise UsageError(f"--model_path {path!r} is no path: {error}") from None
    if not path:
        raise UsageError("--model_path is empty; the model's path is needed")
    return place


def _missing(place: Path) -> str:
    """Say from where on a path leads nowhere, and what is there that has a similar name."""
    parent = next(one for one in place.parents if one.exists())
    name, *rest = place.relative_to(parent).parts
    where = parent if parent.parts else Path.cwd()
    if (parent / name).is_symlink():
        target = shown(str((parent / name).readlink()))
        return f"{where / name} is a link to {target}, which does not"
    alike = [_as_far_as_it_leads(parent / one, rest) for one in near(name, _listing(parent))]
    hint = f"; near it: {', '.join(shown(str(one)) for one in alike)}" if alike else ""
    return f"{where} has no {name}{hint}"


def _as_far_as_it_leads(start: Path, rest: list[str]) -> Path:
    whole = start.joinpath(*rest)
    return whole if whole.exists() else start


def _names(place: Path) -> list[str]:
    """Return the names in a folder; raises Unusable if it cannot be read."""
    try:
        return sorted(entry.name for entry in place.iterdir())
    except OSError as error:
        raise Unusable(f"cannot be read: {error.strerror}") from None


def _listing(place: Path) -> list[str]:
    """Return the names in a folder; none if it cannot be read."""
    try:
        return _names(place)
    except Unusable:
        return []


def _begins_with(place: Path, mark: bytes) -> bool:
    if not place.is_file():
        return False
    try:
        with place.open("rb") as file:
            return file.read(len(mark)) == mark
    except OSError:
        return False


# -- what is there instead


def _contents(place: Path, names: list[str]) -> str:
    """Say what a folder without a config holds."""
    ggufs = [one for one in names if one.endswith(".gguf")]
    if ggufs:
        return f"it holds GGUF files; use `llamacpp --model_path {shown(str(place / ggufs[0]))}`"
    if ADAPTER in names:
        return f"it {_weight_files.MERGED}"
    inner = _models_below(place)
    if len(inner) == 1:
        return f"the model's folder is {shown(str(inner[0]))}"
    if inner:
        return f"the model may be {listed([str(one) for one in inner])}"
    if any(one.endswith((".safetensors", ".bin")) for one in names):
        return "it holds weights; copy the model's other files, too"
    return "it is no model folder that the transformers library can read"


def _models_below(place: Path) -> list[Path]:
    """Return the model folders that lie nearest below this one."""
    level = [place]
    for _ in range(DEPTH):
        level = [one for folder in level for one in _subfolders(folder)][:MOST_FOLDERS]
        found = [one for one in level if (one / CONFIG).is_file()]
        if found:
            return found
    return []


def _subfolders(place: Path) -> Iterator[Path]:
    """Yield the folders in this one, not those behind links: they may lead back."""
    try:
        with os.scandir(place) as entries:
            yield from sorted(Path(one) for one in entries if one.is_dir(follow_symlinks=False))
    except OSError:
        return


def _ggufs(place: Path) -> str:
    names = _names(place)
    found = [str(place / one) for one in names if one.endswith(".gguf")]
    if found:
        return listed(found)
    if CONFIG in names:
        return f"use `huggingface --model_path {place}` for a folder of the transformers library"
    return "it holds none"
