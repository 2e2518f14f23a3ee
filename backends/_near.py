"""Find names that somebody may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST = 3
SHORTEST = 3  # letters that a name must have to be looked for inside others


def near(name: str, known: Iterable[str]) -> list[str]:
    """Return the known names that are most like this one, best first; case does not matter."""
    folded: dict[str, list[str]] = {}
    for one in known:
        folded.setdefault(one.casefold(), []).append(one)
    wanted = name.casefold()
    alike = difflib.get_close_matches(wanted, folded, MOST)
    longer = sorted(one for one in folded if wanted in one) if len(name) >= SHORTEST else []
    found = dict.fromkeys([*alike, *longer])
    return [one for key in found for one in folded[key]][:MOST]
