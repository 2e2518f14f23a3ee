"""Options as tables: argparse, configuration file and Modelfile all come from one list.

Precedence: the table's default < what the model itself states < the -c file < the command line <
the Modelfile's llm_*. None never overrides, and lists of texts, such as stop words, are
concatenated.

A Library lists the parameters that a backend's library accepts beyond the table. Some are passed
on, the others are logged as without effect; only an option unknown to the library ends the start.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from kuwa_min.chat.catalog import BAD_OPTION
from kuwa_min.chat.sentence import sentence_of
from kuwa_min.errors import AnswerError, UsageError
from kuwa_min.log import redaction

from . import types
from .sentences import MUST_BE_AT_LEAST, MUST_BE_ONE_OF, OPTION_REASON
from .text_file import InvalidTextFile, read_text

logger = logging.getLogger(__name__)

WITHOUT_EFFECT = "{} of a Modelfile has no effect in this backend"
MAX_NAMES = 5  # options without effect that are logged for one request
MAX_WARNINGS = 256  # distinct warnings that are remembered, so that each is logged once
LIST_METAVARS: dict[types.Kind, str] = {list: "TEXT", list[int]: "INT"}
METAVARS: dict[types.Kind, str] = {
    **LIST_METAVARS,
    dict: "JSON",
    types.Pattern: "TEXT",
    **dict.fromkeys(types.IN_FILES, "FILE"),
}
# One of a Modelfile's llm_*, which our own code reads: never sent to a service.
MULTIMODAL = "enable_multimodal"


class Option(NamedTuple):
    """One generation option.

    name: as on the command line. kind: its type; list is a list of texts, list[int] one of whole
    numbers, dict a JSON object. least: the lowest value. aliases: its other names in files and
    Modelfiles. choices: its only values, if there are any.
    """

    name: str
    kind: types.Kind
    default: Any
    help: str
    least: float | None = None
    aliases: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()

    def convert(self, value: Any) -> Any:
        """Return the value in this option's type; raises ValueError with a Sentence about it."""
        try:
            converted = types.convert(self.kind, value)
        except ValueError as error:
            raise ValueError(OPTION_REASON.format(self.name, sentence_of(error))) from None
        values = converted if self.is_list else [converted]
        if self.least is not None and any(value < self.least for value in values):
            raise ValueError(
                OPTION_REASON.format(self.name, MUST_BE_AT_LEAST.format(f"{self.least:g}"))
            )
        if self.choices and converted not in self.choices:
            reason = MUST_BE_ONE_OF.format(", ".join(self.choices))
            raise ValueError(OPTION_REASON.format(self.name, reason))
        return converted

    @property
    def is_list(self) -> bool:
        """Tell whether its values are lists, which add up."""
        return self.kind in LIST_METAVARS


Table = Sequence[Option]
Source = tuple[str, Mapping[str, Any]]  # of options: its name for messages, and its values
NO_SOURCE: Source = ("", {})
# Names that may stand in the log although a Modelfile wrote them: others are people's text.
WELL_KNOWN = {"max_tokens", "max_new_tokens", "max_output_tokens", "repetition_penalty"}
OLLAMA = {  # parameters of Ollama's Modelfiles; the log names those that the table lacks
    *("num_ctx", "num_predict", "num_keep", "num_batch", "num_gpu", "num_thread", "main_gpu"),
    *("temperature", "top_k", "top_p", "min_p", "typical_p", "tfs_z", "seed", "stop"),
    *("repeat_last_n", "repeat_penalty", "presence_penalty", "frequency_penalty"),
    *("mirostat", "mirostat_tau", "mirostat_eta", "penalize_newline"),
}


def unchanged(_: str, value: Any) -> Any:
    """Return an option's value unchanged."""
    return value


class Library(NamedTuple):
    """The parameters that a backend's library accepts beyond the backend's table.

    name: the function or class with these parameters. known: all of them. passed: those that are
    passed on. for_bots: those of the passed ones that a Modelfile may set, too. convert: called
    with name and value, returns the value to pass; raises ValueError with a Sentence (see
    Option.convert).
    """

    name: str
    known: Collection[str]
    passed: Collection[str] = ()
    for_bots: Collection[str] = ()
    convert: Callable[[str, Any], Any] = unchanged


NO_LIBRARY = Library("", ())


def add_arguments(parser: argparse.ArgumentParser, table: Table, note: str | None = None) -> None:
    """Add the table's options and -c to a parser, below a note; `settings` evaluates them."""
    group = parser.add_argument_group("generation options", note)
    group.add_argument(
        "-c",
        "--generation_config",
        metavar="FILE",
        help="read these options from a .json, .yaml, .yml or .toml file (default: None)",
    )
    for option in table:
        how: dict[str, Any] = {"nargs": "*", "action": "extend"} if option.is_list else {}
        group.add_argument(
            f"--{option.name}",
            type=str if option.is_list else _argument(option),
            metavar=_metavar(option),
            default=argparse.SUPPRESS,
            help=f"{option.help} (default: {option.default})",
            **how,
        )


def _metavar(option: Option) -> str:
    if option.choices:
        return f"{{{','.join(option.choices)}}}"
    return METAVARS.get(option.kind, option.kind.__name__.upper())


def _argument(option: Option) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            return option.convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{error}, not {text!r}") from None

    def convert_file(path: str) -> Any:
        try:
            return option.convert(read_text(path))
        except InvalidTextFile as error:
            raise argparse.ArgumentTypeError(f"{path} {error}") from None
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{path}: {error}") from None

    return convert_file if option.kind in types.IN_FILES else convert


def settings(
    table: Table,
    args: argparse.Namespace,
    library: Callable[[], Library] = lambda: NO_LIBRARY,
    *,
    model: Source = NO_SOURCE,
    more: Sequence[Source] = (),
) -> dict[str, Any]:
    """Merge defaults, what the model itself states, the -c file, `more` and the command line.

    library: called only for options that the table lacks. Raises UsageError for an invalid or
    unknown option, naming its source.
    """
    from .config_file import read_config

    path = args.generation_config
    sources = [(path, read_config(path))] if path else []
    options = {option.name: option.default for option in table}
    for source in [model, *sources, *more]:
        options = _merge(table, options, _read(table, source, library))
    names = {option.name for option in table}
    given = {name: value for name, value in vars(args).items() if name in names}
    return _merge(table, options, _read(table, ("the command line", given), library))


def asked_by(parameters: Mapping[str, Any], table: Table) -> dict[str, Any]:
    """Return the options in a Modelfile's parameters: llm_stop, or stop as Ollama has it.

    parameters: a ParameterDict. Without llm_, only the table's names count; the log names others of
    Ollama's.
    """
    names = {name for option in table for name in (option.name, *option.aliases)}
    for name in sorted((parameters.keys() & OLLAMA) - names):
        warn_once(WITHOUT_EFFECT.format(name))
    plain = {name: value for name, value in parameters.items() if name in names}
    return {**plain, **parameters["llm_"]}


def for_request(
    table: Table,
    base: Mapping[str, Any],
    asked: Mapping[str, Any],
    library: Callable[[], Library] = lambda: NO_LIBRARY,
) -> dict[str, Any]:
    """Merge a Modelfile's llm_* into the settings; raises AnswerError for an invalid value.

    base: the result of `settings`. asked: the llm_* without the prefix. Unknown ones are logged.
    """

    def refuse(error: ValueError, _: Any) -> AnswerError:
        return AnswerError(BAD_OPTION.format(sentence_of(error)))

    options, others = _split(table, asked, refuse)
    others.pop(MULTIMODAL, None)
    if others:
        known = library()
        for name in [name for name in others if name not in known.for_bots][:MAX_NAMES]:
            is_known = name in known.known or name in OLLAMA | WELL_KNOWN
            shown = name if is_known else f"* {redaction.content(name)}"
            warn_once(WITHOUT_EFFECT.format(f"llm_{shown}"))
        passed = {
            name: types.from_json(value)
            for name, value in others.items()
            if name in known.for_bots and value is not None
        }
        options |= _converted(known.convert, passed, refuse)
    return _merge(table, base, options)


def wants_multimodal(asked: Mapping[str, Any]) -> bool | None:
    """Return a Modelfile's llm_enable_multimodal, None if not given.

    Raises AnswerError for a value that is no boolean.
    """
    value = asked.get(MULTIMODAL)
    if value is None:
        return None
    try:
        return bool(types.convert(bool, value))
    except ValueError as error:
        reason = OPTION_REASON.format(MULTIMODAL, sentence_of(error))
        raise AnswerError(BAD_OPTION.format(reason)) from None


def merge_config(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Return base overridden by the values of top that are not None."""
    return {**base, **{name: value for name, value in top.items() if value is not None}}


def _merge(table: Table, base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = merge_config(base, top)
    for option in table:
        if option.is_list and base.get(option.name) and top.get(option.name):
            merged[option.name] = [*base[option.name], *top[option.name]]
    return merged


Refuse = Callable[[ValueError, Any], Exception]  # the error to raise for an invalid value


def _split(
    table: Table, values: Mapping[str, Any], refuse: Refuse
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split values into those of the table's options, converted and without None, and the rest."""
    known = {name: option for option in table for name in (option.name, *option.aliases)}
    given = {name: value for name, value in values.items() if value is not None}
    ours = {name: value for name, value in given.items() if name in known}
    converted = _converted(lambda name, value: known[name].convert(value), ours, refuse)
    options: dict[str, Any] = {}
    for name, value in converted.items():
        options = _merge(table, options, {known[name].name: value})
    return options, {name: value for name, value in values.items() if name not in known}


def _converted(
    convert: Callable[[str, Any], Any], values: Mapping[str, Any], refuse: Refuse
) -> dict[str, Any]:
    converted = {}
    for name, value in values.items():
        try:
            converted[name] = convert(name, value)
        except ValueError as error:
            raise refuse(error, value) from None
    return converted


def _read(table: Table, source: Source, library: Callable[[], Library]) -> dict[str, Any]:
    """Convert an operator's options; raises UsageError for an invalid or unknown one."""
    place, values = source

    def refuse(error: ValueError, value: Any) -> UsageError:
        return UsageError(f"{place}: {error}, not {value!r}")

    options, others = _split(table, values, refuse)
    if not others:
        return options
    known = library()
    for name in others:
        if name not in known.known:
            raise UsageError(f"{place}: {_unknown(name, table, known)}")
    unused = ", ".join(sorted(name for name in others if name not in known.passed))
    if unused:
        logger.warning("%s: parameters of %s without effect here: %s", place, known.name, unused)
    passed = {
        name: value for name, value in others.items() if name in known.passed and value is not None
    }
    return options | _converted(known.convert, passed, refuse)


def _unknown(name: object, table: Table, library: Library) -> str:
    """Return the error message for an unknown option, with the known ones."""
    ours = [option.name for option in table]
    every, word = [*ours, *sorted(library.known)], str(name) or "?"
    prefixed = [one for one in every if one.startswith(word)]
    matches = prefixed or difflib.get_close_matches(word, every, 1)
    hint = f"; did you mean {matches[0]}?" if matches else ""
    more = f", and the parameters of {library.name}" if library.name else ""
    return f"unknown option {name!r}{hint}; known are {', '.join(ours)}{more}"


@functools.lru_cache(maxsize=MAX_WARNINGS)
def warn_once(text: str) -> None:
    """Log a warning about a bot's options once, however many of its chats cause it."""
    logger.warning("%s", text)
