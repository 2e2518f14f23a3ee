"""Suggest known names for a name that was probably misspelt."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MAX_MATCHES = 3
MIN_LENGTH = 3  # letters of a name that is looked for inside others


def close_matches(name: str, known: Iterable[str]) -> list[str]:
    """Return the known names most similar to this one, the best first, whatever their case."""
    folded: dict[str, list[str]] = {}
    for one in known:
        folded.setdefault(one.casefold(), []).append(one)
    wanted = name.casefold()
    similar = difflib.get_close_matches(wanted, folded, MAX_MATCHES)
    longer = sorted(one for one in folded if wanted in one) if len(name) >= MIN_LENGTH else []
    found = dict.fromkeys([*similar, *longer])
    return [one for key in found for one in folded[key]][:MAX_MATCHES]
