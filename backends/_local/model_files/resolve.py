"""Resolve --model_path, and report in one line what is wrong with it before anything is loaded."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

from kuwa_min.errors import UsageError

from . import gguf, hub_cache, peft_folder, quantization, text_files, weights
from . import gguf_adapter as adapters
from .close_matches import close_matches
from .folder_contents import ADAPTER, CONFIG, adapter, instead_of_config, instead_of_gguf
from .foreign_files import ARCHIVE, what_it_is
from .gguf_header import MAGIC, Header
from .peft_folder import PeftAdapter
from .sniff import InvalidModelFile, check_small_file, printable, read_head, read_json

logger = logging.getLogger(__name__)

HUB_FILE = "hf://"  # scheme of a file in the hub's cache: hf://owner/name?file
POOLING = "1_Pooling"  # a module of sentence-transformers
TOKENIZER = "tokenizer.json"
TOKENIZERS = ("*token*", "*vocab*", "merges.txt", "*.model", "*.tiktoken", "tekken.json")


def transformers_folder(
    path: str,
    *,
    safetensors_only: bool = False,
    needs_tokenizer: bool = True,
    carried: Collection[str] | None = None,
) -> Path:
    """Return the checked transformers folder of a path or a cached hub name.

    needs_tokenizer: false if it comes from another folder; carried: as for quantization.check().
    Raises UsageError about the folder, StartError if a library that it needs is missing.
    """
    check = partial(
        _checked,
        safetensors_only=safetensors_only,
        needs_tokenizer=needs_tokenizer,
        carried=carried,
    )
    if _is_of_hub(path):
        return _checked_snapshot(path, check)
    place = _existing(path)
    if not place.is_dir():
        raise UsageError(f"--model_path {path} {_file_instead(place)}")
    return check(place, path)


def any_folder(path: str, option: str) -> Path:
    """Return the readable folder of a path or a cached hub name; raises UsageError.

    option: the option that has the path, for the message.
    """
    try:
        place = hub_cache.hub_folder(path) if _is_of_hub(path) else _existing(path)
    except UsageError as error:
        raise UsageError(str(error).replace("--model_path", option)) from None
    if not place.is_dir():
        raise UsageError(f"{option} {path} is a file; a folder is needed")
    try:
        return text_files.readable(place)
    except InvalidModelFile as error:
        raise UsageError(f"{option} {path} {error}") from None


def peft_adapter(path: str, scale: float) -> PeftAdapter:
    """Return the checked adapter of a folder or a cached hub name; raises UsageError."""
    place = any_folder(path, "--lora")
    try:
        return PeftAdapter(place, path, scale, peft_folder.check(place))
    except InvalidModelFile as error:
        raise UsageError(f"--lora {path} {error}") from None


def gguf_file(path: str) -> tuple[Path, Header]:
    """Return the checked GGUF file of a path or hf://owner/name?file, and its header.

    Raises UsageError.
    """
    place = _hub_gguf(path) if path.startswith(HUB_FILE) else _existing(path)
    try:
        if place.is_dir():
            raise InvalidModelFile(
                f"is a folder; a GGUF file is needed: {instead_of_gguf(place, _names(place))}"
            )
        return place, gguf.check(place)
    except InvalidModelFile as error:
        raise UsageError(f"--model_path {path} {error}") from None


def gguf_adapter(path: str, model: Header) -> tuple[Path, Header]:
    """Return the checked GGUF file of an adapter for a model, and its header; raises UsageError."""
    place = _gguf_place(path, "--lora")
    try:
        if place.is_dir():
            raise InvalidModelFile(
                "is a folder; a GGUF file is needed, which llama.cpp's convert_lora_to_gguf.py "
                "makes of a folder of the peft library"
            )
        return place, adapters.check(place, model)
    except InvalidModelFile as error:
        raise UsageError(f"--lora {path} {error}") from None


def mmproj_file(path: str) -> Path:
    """Return the checked file of --mmproj, a path or hf://owner/name?file; raises UsageError."""
    place = _gguf_place(path, "--mmproj")
    try:
        gguf.check_mmproj(place)
    except InvalidModelFile as error:
        raise UsageError(f"--mmproj {path} {error}") from None
    return place


def _gguf_place(path: str, option: str) -> Path:
    """Return the path of an option's GGUF file or hub address; raises UsageError."""
    try:
        return _hub_gguf(path) if path.startswith(HUB_FILE) else _existing(path)
    except UsageError as error:
        raise UsageError(str(error).replace("--model_path", option)) from None


def _hub_gguf(address: str) -> Path:
    repository, _, file = address.removeprefix(HUB_FILE).partition("?")
    if not (repository and file):
        raise UsageError(f"--model_path {address} is incomplete: hf://owner/name?file is needed")
    return hub_cache.hub_file(repository, file)


def _checked_snapshot(name: str, check: Callable[[Path, str], Path]) -> Path:
    snapshot = hub_cache.hub_folder(name)
    try:
        return check(snapshot, name)
    except UsageError as error:  # only a part of it may have been fetched
        raise UsageError(f"{error}; {hub_cache.how_to_fetch(name)}") from None


def _checked(
    place: Path,
    path: str,
    *,
    safetensors_only: bool,
    needs_tokenizer: bool,
    carried: Collection[str] | None,
) -> Path:
    try:
        config = _config(place)
        named = config.get("transformers_weights")
        weights.find(
            place,
            named=named if isinstance(named, str) else None,
            safetensors_only=safetensors_only,
        )
        if needs_tokenizer:
            _check_tokenizer(place)
        folder = text_files.readable(place, needs_tokenizer=needs_tokenizer)
    except InvalidModelFile as error:
        raise UsageError(f"--model_path {path} {error}") from None
    except OSError as error:
        raise UsageError(f"--model_path {path} cannot be read: {error.strerror}") from None
    if (place / POOLING).is_dir():
        raise UsageError(
            f"--model_path {path} is an embedding model (sentence-transformers), which turns text "
            "into numbers and answers no chats; a language model is needed"
        )
    if (place / ADAPTER).is_file():
        logger.warning("%s: the adapter in it is not applied: it is %s", path, adapter(place))
    quantization.check(config, carried)
    return folder


def _config(place: Path) -> dict[str, Any]:
    names = _names(place)
    if CONFIG not in names:
        raise InvalidModelFile(f"has no {CONFIG}: {instead_of_config(place, names)}")
    try:
        return read_json(place / CONFIG)
    except InvalidModelFile as error:
        raise InvalidModelFile(f"cannot be loaded: {CONFIG} {error}") from None


def _check_tokenizer(place: Path) -> None:
    """Raise InvalidModelFile if a folder has no tokenizer, or a placeholder for a file of it.

    Beside a tokenizer.json the library reads no other vocabulary.
    """
    if (place / TOKENIZER).is_file():
        return
    found = sorted({one for pattern in TOKENIZERS for one in place.glob(pattern)})
    if not found:
        raise InvalidModelFile(
            f"has no tokenizer beside its {CONFIG}: tokenizer.json or others; copy "
            f"them, or give --tokenizer{_tokenizer_above(place)}"
        )
    for file in found:
        if file.is_dir():
            continue
        try:
            check_small_file(file)
        except InvalidModelFile as error:
            raise InvalidModelFile(f"cannot be loaded: {printable(file.name)} {error}") from None


def _tokenizer_above(place: Path) -> str:
    """Return the folder above, if it has a tokenizer, as that of a trainer's checkpoints may."""
    above = place.absolute().parent
    has_one = any((above / name).is_file() for name in (TOKENIZER, "tokenizer.model"))
    return f" {printable(str(above))}" if has_one else ""


def _is_of_hub(path: str) -> bool:
    """Tell whether a path is rather a hub name: it does not exist, and has the form of one."""
    if os.path.lexists(path):
        return False
    if hub_cache.is_cached(path):
        return True
    here, first = _listing(Path()), path.partition("/")[0]
    return hub_cache.is_hub_name(path) and not (first in here or close_matches(first, here))


# -- paths


def _existing(path: str) -> Path:
    try:
        place = Path(path).expanduser()
        place.stat()
    except FileNotFoundError:
        raise UsageError(f"--model_path {path} does not exist: {_missing(place)}") from None
    except OSError as error:
        raise UsageError(f"--model_path {path} cannot be read: {error.strerror}") from None
    except (ValueError, RuntimeError) as error:  # a NUL byte; ~ of an unknown user
        raise UsageError(f"--model_path {path!r} is no path: {error}") from None
    if not path:
        raise UsageError("--model_path is empty; the model's path is needed")
    return place


def _missing(place: Path) -> str:
    """Return from which folder on a path does not exist, with similar names in that folder."""
    parent = next(one for one in place.parents if one.exists())
    name, *rest = place.relative_to(parent).parts
    where = parent if parent.parts else Path.cwd()
    if (parent / name).is_symlink():
        target = printable(str((parent / name).readlink()))
        return f"{where / name} is a link to {target}, which does not"
    similar = [
        _longest_existing(parent / one, rest) for one in close_matches(name, _listing(parent))
    ]
    hint = f"; near it: {', '.join(printable(str(one)) for one in similar)}" if similar else ""
    return f"{where} has no {name}{hint}"


def _longest_existing(start: Path, rest: list[str]) -> Path:
    """Return the whole path below a similar name if it exists, else that name alone."""
    whole = start.joinpath(*rest)
    return whole if whole.exists() else start


def _names(place: Path) -> list[str]:
    """Return the names in a folder; raises InvalidModelFile if it cannot be read.

    Those of a Mac's copies (._NAME beside NAME) are left out: they hold no content.
    """
    try:
        return sorted(one.name for one in place.iterdir() if not one.name.startswith("._"))
    except OSError as error:
        raise InvalidModelFile(f"cannot be read: {error.strerror}") from None


def _listing(place: Path) -> list[str]:
    """Return the names in a folder; [] if it cannot be read."""
    try:
        return _names(place)
    except InvalidModelFile:
        return []


def _file_instead(place: Path) -> str:
    """Return what a file is that was given for a folder, and what to do."""
    needed = "is a file; the model's folder is needed"
    try:
        head = read_head(place)
    except InvalidModelFile as error:
        return str(error)
    if head.startswith(MAGIC):
        return f"{needed}; `llamacpp` runs GGUF files"
    if (place.parent / CONFIG).is_file():
        return f"{needed}, which may be {printable(str(place.parent))}"
    said = what_it_is(head, place.name)
    return said if said == ARCHIVE else needed
