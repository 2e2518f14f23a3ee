"""Write what an answer must match in the fields of each kind of service.

A JSON schema is `response_format` everywhere. Regular expressions and grammars are no part of
OpenAI's protocol; `owned_by` in the list of models says which server it is. Most servers ignore
fields that they do not know, so that nothing is sent to one that may not know them.
"""

from __future__ import annotations

import json
from typing import Any

from kuwa_min.options.constraint import ANY_OBJECT, GRAMMAR, JSON_SCHEMA, REGEX, Constraint

NAME = "answer"  # of a schema, which the protocol demands
VLLM, SGLANG, LLAMA_SERVER = "vllm", "sglang", "llamacpp"  # as `owned_by` has them
OLDER = "guided_"  # the beginning of what vLLM called these fields before 0.12
LARK = "%llguidance {}\n"  # first line of a grammar of llguidance, at llama-server
FIELDS = (  # names by which services refuse one of these fields
    *("response_format", "json_schema", "json_object", "schema", "structured_outputs"),
    *("guided", "grammar", "regex", "ebnf"),
)


def is_strict(constraint: Constraint) -> bool:
    """Tell whether `strict` is tried first: OpenAI guarantees some schemas only."""
    return constraint.kind == JSON_SCHEMA and constraint != ANY_OBJECT


def fields(
    constraint: Constraint, service: str, *, strict: bool, older: bool
) -> dict[str, Any] | None:
    """Return the fields of a request; None if the service has none for this kind of constraint.

    service: owner of the models in its list, "" if unknown; strict: ask to guarantee a schema;
    older: add the names that vLLM had before 0.12, as each version ignores those of the other.
    """
    kind, text = constraint
    if constraint == ANY_OBJECT:
        return {"response_format": {"type": "json_object"}}
    if kind == JSON_SCHEMA:
        schema = {"name": NAME, "schema": json.loads(text), "strict": strict}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    if service == VLLM:
        return {"structured_outputs": {kind: text}, **({OLDER + kind: text} if older else {})}
    if service == SGLANG and kind == REGEX:
        return {"regex": text}
    if service == LLAMA_SERVER:
        return {"grammar": LARK + (text if kind == GRAMMAR else _rule(text))}
    return None


def _rule(pattern: str) -> str:
    """Return a grammar in Lark's notation of one regular expression."""
    escaped = pattern.replace("/", r"\/").replace("\n", r"\n")
    return f"start: /{escaped}/\n"
