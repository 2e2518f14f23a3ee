"""Detect chat templates that offer functions in the format whose calls /v1 parses.

Facts about templates that take `tools`:
- Those of Hermes and Qwen write the signatures and an example of a call: <tool_call> around a JSON
  object. Calls in the history are written like that, and results within <tool_response>.
- Others define other markup, in which the model then answers: Qwen3-Coder's calls are XML
  within <tool_call>, GLM's pairs of <arg_key> and <arg_value>, Mistral's behind special tokens.
"""

from __future__ import annotations

import re
from typing import Any

from .chat_template import ChatTemplate, TemplateError

PROBE: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "kuwa_probe",
        "description": "kuwa-probe",
        "parameters": {"type": "object", "properties": {"kuwa": {"type": "string"}}},
    },
}
CALL = re.compile(r"""<tool_call>\s*\{+\s*\\?["']""")  # the beginning of a JSON object


def offers_functions(template: ChatTemplate) -> bool:
    """Tell whether the template writes functions, and calls as JSON within <tool_call>."""
    chat = [{"role": role, "content": "?"} for role in ("system", "user")]
    try:
        text = template.render(chat, tools=[PROBE])
    except (TemplateError, MemoryError):
        return False
    return PROBE["function"]["name"] in text and bool(CALL.search(text))
