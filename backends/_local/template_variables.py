"""The variables that options give to a chat template: enable_thinking, reasoning_effort, ..."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from kuwa_min.log.redaction import content
from kuwa_min.options.generation_options import warn_once
from kuwa_min.options.thinking import REASONING_EFFORT, TEMPLATE_KWARGS

Variables = Mapping[str, Any]
NO_VARIABLES: Variables = {}
OURS = {"messages", "add_generation_prompt"}  # which no option sets
NOT_READ = "the chat template reads no {}: it has no effect"


def variables_of(
    options: Mapping[str, Any], settings: Mapping[str, Any], known: Collection[str] | None
) -> Variables:
    """Return those variables of a request that its template reads; name the others once.

    settings: the operator's options, whose names may be logged; known: the template's variables,
    None if they are not known.
    """
    given = _given(options)
    dropped = {one for one in given if one in OURS or (known is not None and one not in known)}
    own = _given(settings)
    for name in sorted(dropped):
        is_ours = name in own or name == REASONING_EFFORT.name
        warn_once(NOT_READ.format(name if is_ours else f"variable {content(name)}"))
    return {name: value for name, value in given.items() if name not in dropped}


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    given = dict(options.get(TEMPLATE_KWARGS.name) or {})
    effort = options.get(REASONING_EFFORT.name)
    return given if effort is None else {REASONING_EFFORT.name: effort, **given}
