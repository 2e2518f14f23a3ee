"""The variables that options give to a chat template: enable_thinking, reasoning_effort, ..."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from kuwa_min.chat.catalog import BAD_OPTION, TOOLS_WITH_MARKUP
from kuwa_min.errors import AnswerError
from kuwa_min.log.redaction import content
from kuwa_min.options.generation_options import warn_once
from kuwa_min.options.sentences import MUST_HAVE_NO_MARKUP, OPTION_REASON
from kuwa_min.options.thinking import REASONING_EFFORT, TEMPLATE_KWARGS

from .control_tokens import ControlTokens

Variables = Mapping[str, Any]
NO_VARIABLES: Variables = {}
OURS = {"messages", "add_generation_prompt"}  # which no option sets
NOT_READ = "the chat template reads no {}: it has no effect"
NAMES = (TEMPLATE_KWARGS.name, REASONING_EFFORT.name)
TOOLS = "tools"


def variables_of(
    options: Mapping[str, Any],
    settings: Mapping[str, Any],
    known: Collection[str] | None,
    control_tokens: ControlTokens,
) -> Variables:
    """Return those variables of a request that its template reads; name the others once.

    settings: the operator's options, whose names may be logged; known: the template's variables,
    None if they are not known. Raises AnswerError for control tokens in what a bot gives: in a
    variable they would be the template's.
    """
    for name in NAMES:
        value = options.get(name)
        if value != settings.get(name) and any(
            _is_markup(one, control_tokens) for one in _texts(value)
        ):
            raise AnswerError(BAD_OPTION.format(OPTION_REASON.format(name, MUST_HAVE_NO_MARKUP)))
    given = _given(options)
    dropped = {one for one in given if one in OURS or (known is not None and one not in known)}
    own = _given(settings)
    for name in sorted(dropped):
        is_ours = name in own or name == REASONING_EFFORT.name
        warn_once(NOT_READ.format(name if is_ours else f"variable {content(name)}"))
    return {name: value for name, value in given.items() if name not in dropped}


def with_tools(
    variables: Variables, tools: Sequence[Mapping[str, Any]], control_tokens: ControlTokens
) -> Variables:
    """Add the functions that a client offers; raises AnswerError for control tokens in them.

    Parts of control tokens do no harm: templates write these texts as JSON, in quotation marks.
    """
    if any(map(control_tokens.occur_in, _texts(list(tools)))):
        raise AnswerError(TOOLS_WITH_MARKUP)
    return {**variables, TOOLS: tools}


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    given = dict(options.get(TEMPLATE_KWARGS.name) or {})
    effort = options.get(REASONING_EFFORT.name)
    return given if effort is None else {REASONING_EFFORT.name: effort, **given}


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in a value of JSON."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, list):
            waiting += one
        elif isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]


def _is_markup(text: str, control_tokens: ControlTokens) -> bool:
    """Tell whether a text is a control token, or could be a part of one that is no word."""
    marks = [one for one in control_tokens.suspects(text) if not one.isalnum()]
    return control_tokens.occur_in(text) or any(one in text for one in marks)
