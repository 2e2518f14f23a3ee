"""Say what a chat template may use: jinja2's sandbox, and what transformers adds to it.

The sandbox keeps a template from Python's insides and from changing what it is given. It bounds
neither its time nor its memory: _bounded_template does that.
"""

# Facts (transformers 5.23, compared by tests/backends/test_chat_template.py):
# - blocks are trimmed, and what stands before them on their line;
# - tojson writes any character as it is, and escapes nothing for HTML;
# - the text in {% generation %} is a caller's: what it sets is not seen outside;
# - dict is no class, and a namespace keeps no name that begins with an underscore.

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace


def environment() -> jinja2.Environment:
    """Return what templates are read in."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    made.filters["tojson"] = _to_json
    made.globals.update(
        raise_exception=_refuse, strftime_now=_now, dict=Mapping(), namespace=Variables
    )
    return made


class Generation(Extension):
    """Read {% generation %}, with which templates mark what a model says, for its training."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own way

    def parse(self, parser: Parser) -> nodes.Node:
        """Return what stands between the two tags, as a call's body."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


class Mapping:
    """What templates call `dict`."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        """Make a dictionary, as the class does."""
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """Make a dictionary of keys, as the class does."""
        return dict.fromkeys(*args)


class Variables(Namespace):
    """What templates call `namespace`: variables that a loop may set."""

    def __init__(self, /, *args: Any, **kwargs: Any) -> None:
        names = dict(*args, **kwargs)
        for name in names:
            _check_name(name)
        super().__init__(names)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot hold {name!r}")


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(format: str) -> str:
    return datetime.now().strftime(format)


def _to_json(
    x: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
