"""Options as tables: argparse, configuration file and Modelfile all come from one list.

Precedence: the table's default < the -c file < the command line < the Modelfile's llm_*; None
never overrides.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from .errors import BAD_OPTION, AnswerError, UsageError

logger = logging.getLogger(__name__)

LONGEST_NAME, MOST_NAMES = 40, 5  # of unknown options, in a line of the log
MULTIMODAL = "enable_multimodal"  # of a Modelfile's llm_*: a switch, which no service is sent
SWITCH = {"true": True, "1": True, "false": False, "0": False}


class Option(NamedTuple):
    """One option: a name as on the command line, its type, default, help and lowest value."""

    name: str
    kind: type[int] | type[float] | type[str] | type[bool]
    default: Any
    help: str
    least: float | None = None

    def convert(self, value: Any) -> Any:
        """Return the value in this option's type; raises ValueError saying what is wanted."""
        wanted = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
        try:
            converted = _CONVERTERS[self.kind](value)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{self.name} must be {wanted[self.kind]}") from None
        if isinstance(converted, float) and not math.isfinite(converted):
            raise ValueError(f"{self.name} must be a finite number")
        if self.least is not None and not isinstance(converted, str) and converted < self.least:
            raise ValueError(f"{self.name} must be at least {self.least:g}")
        return converted


Table = Sequence[Option]


def _truth(value: Any) -> bool:
    text = str(value).lower()
    if text not in ("true", "false"):
        raise ValueError
    return text == "true"


def _whole(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError
    return int(value)


def _real(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError
    return float(value)


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError
    return str(value)


_CONVERTERS: dict[type, Callable[[Any], Any]] = {
    bool: _truth,
    int: _whole,
    float: _real,
    str: _text,
}


def add_arguments(parser: argparse.ArgumentParser, table: Table) -> None:
    """Add the table's options and -c to a parser; `settings` reads them back."""
    group = parser.add_argument_group("generation options")
    group.add_argument(
        "-c",
        "--generation_config",
        metavar="FILE",
        help="read these options from a .json, .yaml, .yml or .toml file (default: None)",
    )
    for option in table:
        group.add_argument(
            f"--{option.name}",
            type=_argument(option),
            metavar=option.kind.__name__.upper(),
            default=argparse.SUPPRESS,
            help=f"{option.help} (default: {option.default})",
        )


def _argument(option: Option) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            return option.convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{error}, not {text!r}") from None

    return convert


def settings(table: Table, args: argparse.Namespace) -> dict[str, Any]:
    """Merge defaults, the -c file and the command line; raises UsageError for a bad file."""
    defaults = {option.name: option.default for option in table}
    from_file = _read_options(table, args.generation_config) if args.generation_config else {}
    given = {name: value for name, value in vars(args).items() if name in defaults}
    return merge_config(merge_config(defaults, from_file), given)


def for_request(table: Table, base: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Put a Modelfile's llm_* over the settings; raises AnswerError for an impossible value."""
    known = {option.name: option for option in table}
    unknown = [name[:LONGEST_NAME] for name in asked if name not in {*known, MULTIMODAL}]
    if unknown:
        logger.info("the Modelfile asks for unknown options: %s", ", ".join(unknown[:MOST_NAMES]))
    try:
        wanted = {
            name: known[name].convert(value)
            for name, value in asked.items()
            if name in known and value is not None
        }
    except ValueError as error:
        raise AnswerError(BAD_OPTION.format(error)) from None
    return merge_config(dict(base), wanted)


def wants_multimodal(asked: Mapping[str, Any]) -> bool | None:
    """Return what a Modelfile says in llm_enable_multimodal; None: nothing.

    Raises AnswerError for a value that is neither true nor false.
    """
    value = asked.get(MULTIMODAL)
    if value is None:
        return None
    try:
        return SWITCH[str(value).lower()]
    except KeyError:
        raise AnswerError(BAD_OPTION.format(f"{MULTIMODAL} must be true or false")) from None


def merge_config(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Return base with top's values over it; None never overrides."""
    return {**base, **{name: value for name, value in top.items() if value is not None}}


def _read_options(table: Table, path: str) -> dict[str, Any]:
    from .option_files import read_config

    known = {option.name: option for option in table}
    options = {}
    for name, value in read_config(path).items():
        if name not in known:
            raise UsageError(f"{path}: unknown option {name!r}; known are {', '.join(known)}")
        try:
            options[name] = None if value is None else known[name].convert(value)
        except ValueError as error:
            raise UsageError(f"{path}: {error}, not {value!r}") from None
    return options
