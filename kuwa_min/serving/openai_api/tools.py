"""Functions that a client offers to a model: what the model is told of them, and their results.

They are told as text, in the format of Hermes and Qwen, which most models know or follow when told:
so they work with every chat template and with every service. An executor with the feature
`tool_template`, whose chat template renders functions in this format, gets them for the template
instead. `tool_calls` parses what comes back.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from .errors import ApiError
from .fields import Fields
from .sentences import A_FUNCTION, A_NAME, MUST_BE, NOT_SUPPORTED

OPEN, CLOSE = "<tool_call>", "</tool_call>"
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
CHOICES = AUTO, NONE, REQUIRED = ("auto", "none", "required")
INTRODUCTION = """# Tools

You may call functions to help with the user's request. Their signatures are within <tools></tools>:
<tools>
{}
</tools>

To call one, write a JSON object with its name and arguments within <tool_call></tool_call>:
<tool_call>
{{"name": <function-name>, "arguments": <arguments-object>}}
</tool_call>"""
MUST_CALL = "Call a function now; do not answer in any other way."
MUST_CALL_ONE = "Call the function {} now; do not answer in any other way."
ONLY_ONE = "Call one function at most."


class Tools(NamedTuple):
    """The functions that may be called in an answer."""

    names: frozenset[str]
    functions: list[dict[str, Any]]  # as chat templates take them
    demands: str  # of tool_choice and parallel_tool_calls, for the system prompt
    schema: str | None = None  # of an answer that must be a call; None: it need not be

    def prompt(self) -> str:
        """Return functions and demands as text for the system prompt."""
        if not self.functions:
            return ""
        signatures = "\n".join(json.dumps(one, ensure_ascii=False) for one in self.functions)
        return "\n\n".join(filter(None, (INTRODUCTION.format(signatures), self.demands)))


NO_TOOLS = Tools(frozenset(), [], "")


def read(request: Fields) -> Tools:
    """Return the functions of a request; none with tool_choice "none". Raises ApiError."""
    if not request.get("tools"):
        return NO_TOOLS
    found = [_function(one) for one in request.objects("tools")]
    names = frozenset(one["name"] for one in found)
    choice = _choice(request, names)
    if choice == NONE:
        return NO_TOOLS
    demands, schema = [], None
    if choice != AUTO:
        demands.append(MUST_CALL if choice == REQUIRED else MUST_CALL_ONE.format(choice))
        schema = _schema([one for one in found if choice in (REQUIRED, one["name"])])
    if request.get("parallel_tool_calls") is False:
        demands.append(ONLY_ONE)
    functions = [{"type": "function", "function": one} for one in found]
    return Tools(names, functions, "\n\n".join(demands), schema)


def _schema(functions: list[dict[str, Any]]) -> str:
    """Return the schema of a call of one of these."""
    if len(functions) == 1:
        return _call_schema(functions[0], "#")
    calls = [_call_schema(one, f"#/anyOf/{at}") for at, one in enumerate(functions)]
    return f'{{"anyOf": [{", ".join(calls)}]}}'


def _call_schema(function: dict[str, Any], at: str) -> str:
    """Return the schema of a call of one function, which stands at a JSON pointer.

    References of its parameters count from their own root, which is no longer the schema's.
    """
    schema = json.dumps(
        {
            "type": "object",
            "properties": {
                "name": {"const": function["name"]},
                "arguments": function.get("parameters") or {"type": "object"},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
    )
    for end in ("/", '"'):  # "#/$defs/x" and "#"; within a text, the quotes would be escaped
        schema = schema.replace(f'"$ref": "#{end}', f'"$ref": "{at}/properties/arguments{end}')
    return schema


def _function(tool: Fields) -> dict[str, Any]:
    kind = tool.choice("type", ["function"])
    function = tool.object(kind) or Fields({}, tool.path(kind))
    found: dict[str, Any] = {"name": _name(function)}
    if (about := function.text("description")) is not None:
        found["description"] = about
    if function.object("parameters") is not None:
        found["parameters"] = function.get("parameters")
    return found


def _name(function: Fields) -> str:
    name = function.text("name", required=True) or ""
    if not NAME.fullmatch(name):
        raise function.refuse("name", A_NAME)
    return name


def _choice(request: Fields, names: frozenset[str]) -> str:
    """Return auto, none, required, or the name of the only function that may be called."""
    choice = request.get("tool_choice")
    if choice is None:
        return AUTO
    if not isinstance(choice, dict):
        return request.choice("tool_choice", CHOICES)
    fields = Fields(choice, "tool_choice")
    function = fields.object(fields.choice("type", ["function"]))
    name = _name(function or Fields({}, "tool_choice.function"))
    if name not in names:
        path = "tool_choice.function.name"
        raise ApiError(400, MUST_BE.format(path, A_FUNCTION.format("tools")), param=path)
    return name


def calls_as_text(message: Fields) -> str:
    """Return the calls in a message of the assistant as the model wrote them; "" without any."""
    if not message.get("tool_calls"):
        if message.get("function_call"):
            path = message.path("function_call")
            raise ApiError(400, NOT_SUPPORTED.format(path), param=path)
        return ""
    return "\n".join(_call_as_text(one) for one in message.objects("tool_calls"))


def _call_as_text(call: Fields) -> str:
    function = call.object("function") or Fields({}, call.path("function"))
    name, arguments = _name(function), function.text("arguments") or "{}"
    return f'{OPEN}\n{{"name": {json.dumps(name)}, "arguments": {arguments}}}\n{CLOSE}'


def result_as_text(content: str) -> str:
    """Return what a function returned as models read it."""
    return f"<tool_response>\n{content}\n</tool_response>"
