"""Write what an answer must match as each kind of service takes it; no kind ignores it in silence.

A JSON schema is `response_format` everywhere. Regular expressions and grammars are no part of
OpenAI's protocol: what a service is, its list of models says (`owned_by`).
"""

from __future__ import annotations

import json
from typing import Any

from kuwa_min.options.constraint import ANY_OBJECT, GRAMMAR, JSON_SCHEMA, REGEX, Constraint

NAME = "answer"  # of a schema; services want one
VLLM, SGLANG, LLAMA_SERVER = "vllm", "sglang", "llamacpp"  # as `owned_by` has them
OLDER = "guided_"  # the beginning of what vLLM called these fields before 0.12
LARK = "%llguidance {}\n"  # first line of a grammar of llguidance, at llama-server
FIELDS = (  # words by which a service refuses one
    *("response_format", "json_schema", "json_object", "schema", "structured_outputs"),
    *("guided", "grammar", "regex", "ebnf"),
)


def is_strict(constraint: Constraint) -> bool:
    """Tell whether services are first asked to guarantee it; OpenAI does not for all schemas."""
    return constraint.kind == JSON_SCHEMA and constraint != ANY_OBJECT


def fields(
    constraint: Constraint, service: str, *, strict: bool, older: bool
) -> dict[str, Any] | None:
    """Return the fields of a request; None if the service has none for this kind.

    service: owner of the models in its list, "" if unknown. older: with the names that vLLM had
    before 0.12, as each of its versions ignores the other's.
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
