"""Find a chat template that the library's tokenizer leaves where it lies."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .sniff import InvalidModelFile, join_names, read_json
from .text_files import EXTRA_TEMPLATES

LEGACY = "chat_template.json"  # of processors; the library's tokenizers do not read it
DEFAULT = "default"


def processor_template(folder: Path) -> str | None:
    """Return the default template in a folder's chat_template.json; None if there is none."""
    if not (folder / LEGACY).is_file():
        return None
    try:
        found = read_json(folder / LEGACY).get("chat_template")
    except InvalidModelFile:
        return None
    return default_of(found)


def default_of(templates: Any) -> str | None:
    """Return the default one of templates: a text, a map by name, or a list of both."""
    if isinstance(templates, list):
        entries: Iterable[Any] = (one for one in templates if isinstance(one, dict))
        templates = {one.get("name"): one.get("template") for one in entries}
    if isinstance(templates, dict):
        templates = templates.get(DEFAULT)
    return templates if isinstance(templates, str) and templates else None


def hint(folder: Path) -> str:
    """Return which files may be the template that is missing; "" if there are none."""
    patterns = ("*.jinja*", f"{EXTRA_TEMPLATES}/*.jinja")
    found = [str(one) for pattern in patterns for one in sorted(folder.glob(pattern))]
    return f" (--override_chat_template may name one: {join_names(found)})" if found else ""
