"""The parameters that OpenAI's SDK takes for a chat beyond the backend's table."""

from __future__ import annotations

import inspect
import json
from typing import Any

from openai.resources.chat.completions import Completions

from kuwa_min.options import generation_options
from kuwa_min.options.sentences import MUST_BE_JSON, OPTION_REASON

from .dialect import EXTRA

SET_BY_US = {"messages", "model", "stream", "stream_options"}
NOT_TEXT = {"audio", "modalities", "tools", "tool_choice", "parallel_tool_calls"}
WITHOUT_EFFECT = NOT_TEXT | {"functions", "function_call", "extra_headers", "extra_query"}


def library() -> generation_options.Library:
    """Return the parameters of the SDK's function, which are those of the service."""
    known = set(inspect.signature(Completions.create).parameters) - {"self"}
    passed = known - SET_BY_US - WITHOUT_EFFECT
    name = "openai's chat.completions.create"
    return generation_options.Library(name, known, passed, passed - {EXTRA}, _checked)


def _checked(name: str, value: Any) -> Any:
    """Return a value that JSON can hold."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise ValueError(OPTION_REASON.format(name, MUST_BE_JSON)) from None
    if name == EXTRA and (not isinstance(value, dict) or SET_BY_US & value.keys()):
        raise ValueError(f"{name} must map names to values, without {', '.join(sorted(SET_BY_US))}")
    return value
