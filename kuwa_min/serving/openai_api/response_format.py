"""What a client wants an answer to look like, as the JSON schema of an option."""

from __future__ import annotations

import json

from kuwa_min.options.constraint import ANY_OBJECT

from .errors import ApiError
from .fields import Fields
from .sentences import AN_OBJECT, MUST_BE

TEXT, JSON_OBJECT, JSON_SCHEMA = TYPES = ("text", "json_object", "json_schema")


def read_schema(fields: Fields) -> str | None:
    """Return the schema of response_format as JSON; None for text. Raises ApiError.

    `strict` makes no difference: every schema is kept to.
    """
    wanted = fields.object("response_format")
    if wanted is None:
        return None
    kind = wanted.choice("type", TYPES)
    if kind == TEXT:
        return None
    if kind == JSON_OBJECT:
        return ANY_OBJECT.text
    holder = wanted.object("json_schema")
    if holder is None:
        raise wanted.refuse("json_schema", AN_OBJECT)
    if holder.object("schema") is None:
        path = holder.path("schema")
        raise ApiError(400, MUST_BE.format(path, AN_OBJECT), param=path)
    return json.dumps(holder.get("schema"), separators=(",", ":"))
