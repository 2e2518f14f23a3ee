"""The jinja2 environment of chat templates: its sandbox, with what transformers adds to it.

jinja2's sandbox keeps a template from Python's internals and from changing its arguments. It
limits neither time nor memory: the sandbox process does that.
"""

# Facts (transformers 5.23, compared by templates/test_chat_template.py):
# - trim_blocks and lstrip_blocks are on;
# - tojson writes non-ASCII characters as they are, and escapes nothing for HTML;
# - {% generation %} is a call block: variables set in it are not visible outside;
# - dict is an object, not the class; a namespace accepts no name with a leading underscore.

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


def create_environment() -> jinja2.Environment:
    """Return the environment that templates are compiled in."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
    )
    made.filters["tojson"] = _to_json
    made.globals.update(
        raise_exception=_raise_exception, strftime_now=_now, dict=Mapping(), namespace=Variables
    )
    return made


class GenerationTag(Extension):
    """The tag {% generation %}, which marks what is trained on; it renders its body."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own way

    def parse(self, parser: Parser) -> nodes.Node:
        """Parse up to {% endgeneration %}; return the body as a call block."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


class Mapping:
    """The global `dict`."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        """Return a new dict."""
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """Return a new dict with these keys."""
        return dict.fromkeys(*args)


class Variables(Namespace):
    """The global `namespace`: variables that a loop can assign."""

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


def _raise_exception(message: str) -> NoReturn:
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
