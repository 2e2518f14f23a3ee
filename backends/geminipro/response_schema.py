"""Translate a JSON schema to the subset that Gemini's GenerationConfig takes.

What that cannot express (a pattern, a bound, alternatives) is refused: answers need not match it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kuwa_min.options.constraint import ANY_OBJECT, Constraint

JSON = "application/json"
TYPES = ("string", "number", "integer", "boolean", "array", "object")
UNCHANGED = ("description", "required")  # keywords
RENAMED = {"maxItems": "max_items", "minItems": "min_items"}
# Keywords that restrict nothing, or to what Gemini does anyway: it adds no properties.
WITHOUT_EFFECT = frozenset(
    ("title", "default", "examples", "example", "deprecated", "readOnly", "writeOnly")
) | frozenset(("$schema", "$id", "$comment", "$defs", "definitions", "additionalProperties"))
MAX_DEPTH = 32  # of a schema, which may refer to itself
NULL = "null"


class Untranslatable(ValueError):
    """Report, by its keyword, what Gemini's schemas cannot express."""


def fields(constraint: Constraint) -> dict[str, Any]:
    """Return the fields of GenerationConfig for a JSON schema; raises Untranslatable."""
    if constraint == ANY_OBJECT:
        return {"response_mime_type": JSON}
    schema = json.loads(constraint.text)
    return {"response_mime_type": JSON, "response_schema": _translated(schema, schema, MAX_DEPTH)}


def _translated(schema: Any, root: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """Return a schema in Gemini's keywords; root: the whole schema, for its references."""
    if not isinstance(schema, dict) or depth <= 0:
        raise Untranslatable("a schema that refers to itself" if depth <= 0 else repr(schema)[:40])
    if "$ref" in schema:
        return _translated(_referred(schema["$ref"], root), root, depth - 1)
    found: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword == "type":
            found |= _type(value)
        elif keyword == "properties" and isinstance(value, dict):
            parts = {name: _translated(one, root, depth - 1) for name, one in value.items()}
            found["properties"] = parts
        elif keyword == "items":
            found["items"] = _translated(value, root, depth - 1)
        elif keyword in ("enum", "const"):
            found |= _choices(value if keyword == "enum" else [value])
        elif keyword in UNCHANGED or keyword in RENAMED:
            found[RENAMED.get(keyword, keyword)] = value
        elif keyword not in WITHOUT_EFFECT:
            raise Untranslatable(keyword)
    if "type_" not in found:
        raise Untranslatable("a schema without a type")
    return found


def _type(value: Any) -> dict[str, Any]:
    """Return the fields of a type, or of a type and null; raises Untranslatable."""
    names = value if isinstance(value, list) else [value]
    others = [name for name in names if name != NULL]
    if len(others) != 1 or others[0] not in TYPES:
        raise Untranslatable(f"type {json.dumps(value)[:40]}")
    return {"type_": others[0].upper(), **({"nullable": True} if NULL in names else {})}


def _choices(values: Any) -> dict[str, Any]:
    """Return the fields of an enum of texts; raises Untranslatable."""
    if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
        raise Untranslatable("enum of other values than texts")
    return {"type_": "STRING", "format_": "enum", "enum": values}


def _referred(reference: Any, root: Mapping[str, Any]) -> Any:
    """Return what a reference within the schema leads to; raises Untranslatable."""
    place: Any = root
    steps = reference.split("/")[1:] if str(reference).partition("/")[0] == "#" else [None]
    for step in steps:
        if not isinstance(place, dict) or step not in place:
            raise Untranslatable("$ref to another place")
        place = place[step]
    return place
