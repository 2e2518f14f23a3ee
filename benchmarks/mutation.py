"""How many of mutmut's mutants survive in each module; fails where that is more than one in 20."""

from __future__ import annotations

import json
import sys
from pathlib import Path

MAX_SHARE = 0.05
SURVIVED = (0, 5, 33)  # exit codes: all tests passed, or there are none


def main() -> None:
    """Read what `mutmut run` has left, and print a line for each module."""
    too_many = 0
    for meta in sorted(Path("mutants").rglob("*.py.meta")):
        codes = json.loads(meta.read_text())["exit_code_by_key"].values()
        run = [code for code in codes if code is not None]
        survived = sum(code in SURVIVED for code in run)
        if run:
            module = meta.relative_to("mutants").with_suffix("")
            print(f"{module}: {survived} of {len(run)} survive, {survived / len(run):.1%}")
            too_many += survived > MAX_SHARE * len(run)
    sys.exit(f"more than {MAX_SHARE:.0%} survive in {too_many} modules" if too_many else 0)


if __name__ == "__main__":
    main()
