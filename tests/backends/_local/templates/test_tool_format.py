"""Templates that offer functions: which of them write calls as /v1 reads them."""

from __future__ import annotations

import pytest

from backends._local.templates.chat_template import PLAIN, ChatTemplate
from backends._local.templates.tool_format import offers_functions
from tests.support.models.tiny_models import TEMPLATE

pytest.importorskip("jinja2", reason="templates are jinja2's")

# How families write functions, and what a call is to look like.
OFFERED = "{% if tools %}{% for one in tools %}{{ one | tojson }}{% endfor %}{% endif %}"
QWEN = OFFERED + '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}'
HERMES = OFFERED + "<tool_call>\n{'arguments': <args-dict>, 'name': <function-name>}"
QWEN_CODER = OFFERED + "<tool_call>\n<function=example_function_name>"
GLM = OFFERED + "<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>"
LLAMA = OFFERED + 'Respond in the format {"name": function name, "parameters": dictionary}'
MISTRAL = "{% if tools is not none %}[AVAILABLE_TOOLS]{{ tools | tojson }}{% endif %}"
NO_FUNCTIONS = '<tool_call>{"name": "x"}'
REFUSING = "{% if tools %}{{ raise_exception('no tools') }}{% endif %}" + QWEN


@pytest.mark.parametrize(
    ("source", "offers"),
    [
        (QWEN, True),
        (HERMES, True),
        (QWEN_CODER, False),
        (GLM, False),
        (LLAMA, False),
        (MISTRAL, False),
        (NO_FUNCTIONS, False),
        (REFUSING, False),
        (TEMPLATE, False),
        (PLAIN, False),
    ],
)
def test_calls_must_be_json_within_tags(source: str, offers: bool) -> None:
    """And functions must be written at all."""
    assert offers_functions(ChatTemplate(source, bos_token="<s>")) == offers
