"""Read the fields of a JSON object by strict types; what is wrong is an error with its path."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import ApiError
from .sentences import (
    A_BOOLEAN,
    A_LIST,
    A_NUMBER,
    A_TEXT,
    A_WHOLE,
    AN_OBJECT,
    AT_LEAST,
    BETWEEN,
    MISSING,
    MUST_BE,
    ONE_OF,
)


class Fields:
    """The fields of one object; null counts as absent. Every method raises ApiError with 400.

    path: of the object within the request, "" for the request itself.
    """

    def __init__(self, values: Mapping[str, Any], path: str = "") -> None:
        self._values, self._path = values, path

    def path(self, name: str) -> str:
        """Return the path of a field, as errors name it: messages[0].content."""
        return f"{self._path}.{name}" if self._path else name

    def get(self, name: str) -> Any:
        """Return a value as it is; None if it is absent."""
        return self._values.get(name)

    def refuse(self, name: str, wanted: str) -> ApiError:
        """Return the error about a field that is not what it must be."""
        path = self.path(name)
        sentence = MISSING if self._values.get(name) is None else MUST_BE
        return ApiError(400, sentence.format(path, wanted), param=path)

    def text(self, name: str, *, required: bool = False) -> str | None:
        """Return a text."""
        value = self._values.get(name)
        if value is None and not required:
            return None
        if not isinstance(value, str):
            raise self.refuse(name, A_TEXT)
        return value

    def choice(self, name: str, choices: Sequence[str]) -> str:
        """Return one of some texts, which must be given."""
        value = self._values.get(name)
        if not isinstance(value, str) or value not in choices:
            raise self.refuse(name, ONE_OF.format(", ".join(choices)))
        return value

    def boolean(self, name: str) -> bool:
        """Return a boolean, false if it is absent."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.refuse(name, A_BOOLEAN)
        return bool(value)

    def number(
        self, name: str, least: float, most: float = math.inf, *, whole: bool = False
    ) -> float | int | None:
        """Return a finite number within bounds; a whole one may be written as 8.0."""
        value = self._values.get(name)
        if value is None:
            return None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        is_within = is_number and least <= value <= most and value != math.inf
        if not is_within or (whole and value != int(value)):
            kind = A_WHOLE if whole else A_NUMBER
            bounded = AT_LEAST.format(kind, f"{least:g}")
            if most < math.inf:
                bounded = BETWEEN.format(kind, f"{least:g}", f"{most:g}")
            raise self.refuse(name, bounded)
        return int(value) if whole else value

    def object(self, name: str) -> Fields | None:
        """Return the fields of an object."""
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.refuse(name, AN_OBJECT)
        return Fields(value, self.path(name))

    def objects(self, name: str) -> list[Fields]:
        """Return the fields of each object of a list that is not empty."""
        value = self._values.get(name)
        if not isinstance(value, list) or not value:
            raise self.refuse(name, A_LIST)
        return [self._element(name, at, one) for at, one in enumerate(value)]

    def _element(self, name: str, at: int, value: Any) -> Fields:
        path = f"{self.path(name)}[{at}]"
        if not isinstance(value, dict):
            raise ApiError(400, MUST_BE.format(path, AN_OBJECT), param=path)
        return Fields(value, path)
