"""Import libraries from an unpacked tree and print which sources that loaded.

Run by the Python that the libraries are for. Arguments: the tree, and the statements to run. The
last line of output is a JSON list of paths relative to the tree; libraries may print before it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(tree: str, statements: str) -> None:
    """Run the statements and print what they loaded from below the tree."""
    sys.path[0] = tree  # in place of this file's folder
    sys.dont_write_bytecode = True
    exec(statements, {})
    files = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
    inside = (Path(file).relative_to(tree) for file in files if Path(file).is_relative_to(tree))
    found = sorted(path.as_posix() for path in inside if path.suffix == ".py")
    sys.stdout.write(f"\n{json.dumps(found)}\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
