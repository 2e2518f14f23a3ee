"""Let files written for Kuwa's own executor run unchanged: the names they import from `kuwa`."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

from . import generation, messages, modelfile, option_files
from .executor import LLMExecutor


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
    desc_parser: Callable[[str, str], str | None] | None = None,
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
            text = desc_parser(doc, name) if desc_parser else None
            parser.add_argument(f"--{name}", type=kind, default=found[name], help=text or "-")
    return found


MODULES: dict[str, dict[str, Any]] = {
    "kuwa": {},
    "kuwa.executor": {"LLMExecutor": LLMExecutor, "Modelfile": modelfile.Modelfile},
    "kuwa.executor.llm_executor": {
        "LLMExecutor": LLMExecutor,
        "rectify_chat_history": messages.rectify_chat_history,
        "to_openai_chat_format": messages.to_openai_chat_format,
        "extract_last_url": messages.extract_last_url,
    },
    "kuwa.executor.util": {
        "DescriptionParser": DescriptionParser,
        "expose_function_parameter": expose_function_parameter,
        "merge_config": generation.merge_config,
        "read_config": option_files.read_config,
    },
    "kuwa.executor.modelfile": {
        "Modelfile": modelfile.Modelfile,
        "ParameterDict": modelfile.ParameterDict,
        "convert_value": modelfile.convert_value,
        "extract_text_from_quotes": modelfile.extract_text_from_quotes,
    },
}


def install() -> None:
    """Make `kuwa.executor` importable in this process; an installed Kuwa is not touched."""
    for name, content in MODULES.items():
        module = types.ModuleType(name, "Names of Kuwa's executor, provided by kuwa-min.")
        module.__path__ = []  # a package: its modules are the ones installed here
        vars(module).update(content)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
