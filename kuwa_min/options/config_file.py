"""Read files of generation options: JSON, YAML and TOML."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kuwa_min.errors import UsageError

from .text_file import read_text


def read_config(path: str) -> dict[str, Any]:
    """Read a .json, .yaml, .yml or .toml file of options; raises UsageError naming the file."""
    reader = _READERS.get(Path(path).suffix.lower())
    if reader is None:
        raise UsageError(f"{path}: the name must end in {', '.join(_READERS)}")
    try:
        content = reader(read_text(path))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is malformed: {str(error).splitlines()[0]}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(f"{path}: must hold names and values, not {type(content).__name__}")
    return content


def _read_toml(text: str) -> Any:
    try:
        import tomllib
    except ImportError:
        raise UsageError("TOML files need Python 3.11 or newer; use .json instead") from None
    return tomllib.loads(text)


def _read_yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError:
        from kuwa_min.options.yaml import block

        return block.load(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


_READERS: dict[str, Callable[[str], Any]] = {
    ".json": json.loads,
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
    ".toml": _read_toml,
}
