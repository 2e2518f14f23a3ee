"""Say in one line what is wrong with --model_path, before anything slow is loaded."""

from __future__ import annotations

import difflib
from pathlib import Path

from kuwa_min.errors import UsageError

WEIGHTS = ("*.safetensors", "*.bin")
GGUF = b"GGUF"
GGUF_VERSIONS = (2, 3)


def folder(path: str) -> Path:
    """Return the path if it is a transformers folder; raises UsageError saying what it is."""
    place = _existing(path)
    if not place.is_dir():
        hint = "; `llamacpp` runs GGUF files" if _begins_with(place, GGUF) else ""
        raise UsageError(f"--model_path {path} is a file; the model's folder is needed{hint}")
    if not (place / "config.json").is_file():
        raise UsageError(f"--model_path {path} has no config.json: {_contents(place)}")
    if not any(True for pattern in WEIGHTS for _ in place.glob(pattern)):
        raise UsageError(
            f"--model_path {path} has no weights (*.safetensors or *.bin) beside its config.json"
        )
    return place


def gguf(path: str) -> Path:
    """Return the path if it is a GGUF file; raises UsageError saying what it is."""
    place = _existing(path)
    if place.is_dir():
        raise UsageError(f"--model_path {path} is a folder; a GGUF file is needed: {_ggufs(place)}")
    try:
        with place.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise UsageError(f"--model_path {path} cannot be read: {error.strerror}") from None
    if not head.startswith(GGUF):
        raise UsageError(f"--model_path {path} is not a GGUF file: it begins with {head[:4]!r}")
    version = int.from_bytes(head[4:], "little")
    if version not in GGUF_VERSIONS:
        raise UsageError(f"--model_path {path} is GGUF version {version}; 2 and 3 can be read")
    return place


def _existing(path: str) -> Path:
    place = Path(path).expanduser()
    if place.exists():
        return place
    parent = next(one for one in place.parents if one.exists())
    name = place.relative_to(parent).parts[0]
    near = difflib.get_close_matches(name, _names(parent), 3)
    hint = f"; near it: {', '.join(str(parent / one) for one in near)}" if near else ""
    raise UsageError(f"--model_path {path} does not exist: {parent} has no {name}{hint}")


def _names(place: Path) -> list[str]:
    try:
        return [entry.name for entry in place.iterdir()]
    except OSError:
        return []


def _begins_with(place: Path, mark: bytes) -> bool:
    try:
        with place.open("rb") as file:
            return file.read(len(mark)) == mark
    except OSError:
        return False


def _contents(place: Path) -> str:
    found = sorted(one for one in _names(place) if one.endswith(".gguf"))
    if found:
        return f"it holds GGUF files; use `llamacpp --model_path {place / found[0]}`"
    inner = sorted(one.parent.name for one in place.glob("*/config.json"))
    if inner:
        return f"the model may be {', '.join(str(place / one) for one in inner[:3])}"
    return "it is no model folder that the transformers library can read"


def _ggufs(place: Path) -> str:
    found = sorted(one for one in _names(place) if one.endswith(".gguf"))
    if found:
        return ", ".join(str(place / one) for one in found[:3])
    if (place / "config.json").is_file():
        return f"use `huggingface --model_path {place}` for a folder of the transformers library"
    return "it holds none"
