"""What answers must match: a JSON schema, a regular expression or a grammar."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from kuwa_min.chat.catalog import BAD_OPTION
from kuwa_min.chat.sentence import sentence_of
from kuwa_min.errors import AnswerError, UsageError

from . import types
from .generation_options import Option
from .sentences import ONE_CONSTRAINT, OPTION_REASON

Kind = Literal["json_schema", "regex", "grammar"]
JSON_SCHEMA: Kind = "json_schema"
REGEX: Kind = "regex"
GRAMMAR: Kind = "grammar"
KINDS: tuple[Kind, ...] = (JSON_SCHEMA, REGEX, GRAMMAR)
SCHEMA_OPTION = Option(
    JSON_SCHEMA, types.Schema, None, "JSON schema that answers must match; a bot gives it as text"
)
OPTIONS = (  # for the tables of backends
    SCHEMA_OPTION,
    Option(REGEX, types.Pattern, None, "regular expression that answers must match"),
    Option(GRAMMAR, types.Grammar, None, "Lark grammar that answers must match"),
)


class Constraint(NamedTuple):
    """What an answer must match as a whole.

    text: compact JSON of a schema, a regular expression, or a grammar in Lark's notation.
    """

    kind: Kind
    text: str


ANY_OBJECT = Constraint(JSON_SCHEMA, '{"type":"object"}')  # "json_object" of OpenAI's API


def take_constraint(options: dict[str, Any], asked: Mapping[str, Any]) -> Constraint | None:
    """Remove the constraint from a request's options and return it; None: answers are free.

    asked: the options of the Modelfile, whose constraint replaces the operator's of any kind.
    Raises AnswerError if there are several.
    """
    own = [kind for kind in KINDS if asked.get(kind) is not None]
    found = {kind: options.pop(kind, None) for kind in KINDS}
    try:
        return _only_one({kind: found[kind] for kind in own or KINDS})
    except ValueError as error:
        raise AnswerError(BAD_OPTION.format(sentence_of(error))) from None


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise UsageError if an operator's options hold several constraints."""
    try:
        _only_one({kind: settings.get(kind) for kind in KINDS})
    except ValueError as error:
        raise UsageError(str(error)) from None


def _only_one(found: Mapping[Kind, str | None]) -> Constraint | None:
    """Return the constraint of these; raises ValueError with a Sentence if there are several."""
    given = [Constraint(kind, text) for kind, text in found.items() if text is not None]
    if len(given) > 1:
        raise ValueError(OPTION_REASON.format(given[1].kind, ONE_CONSTRAINT.format(given[0].kind)))
    return given[0] if given else None
