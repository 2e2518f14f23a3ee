"""Options from a function's signature, files of options, timestamps."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

from kuwa_min.chat.chunks import is_rfc3339
from kuwa_min.options.config_file import read_config
from kuwa_min.options.generation_options import merge_config

__all__ = [
    "DescriptionParser",
    "expose_function_parameter",
    "is_rfc3339",
    "merge_config",
    "read_config",
]


class DescriptionParser:
    """Find a parameter's description in a docstring; subclasses say how."""

    def __call__(self, doc: str, name: str) -> str | None:
        """Return the description of the parameter, or None."""
        raise NotImplementedError(f"{type(self).__name__} lacks __call__")


def expose_function_parameter(
    function: Callable[..., Any],
    parser: Any = None,
    accepted_types: tuple[type, ...] = (int, float),
    defaults: dict[str, Any] | None = None,
    desc_parser: Callable[..., str | None] | None = None,
) -> dict[str, Any]:
    """Add a function's parameters of these types to a parser; return names and defaults."""
    found = dict(defaults or {})
    doc = inspect.getdoc(function) or ""
    hints = typing.get_type_hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        hint = hints.get(name)
        union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        kinds = typing.get_args(hint) if union else (hint,)
        kind = next((one for one in accepted_types if one in kinds), None)
        if kind is None:
            continue
        empty = parameter.default is inspect.Parameter.empty
        found.setdefault(name, None if empty else parameter.default)
        if parser is not None:
            text = desc_parser(doc=doc, name=name) if desc_parser else None
            parser.add_argument(f"--{name}", type=kind, default=found[name], help=text or "-")
    return found
