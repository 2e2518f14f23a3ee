"""Compile sources of an unpacked tree into numbered files of another folder.

Run by the Python that the libraries are for. Arguments: the tree and the folder; standard input:
a JSON list of paths relative to the tree. Prints a JSON object: where each .pyc belongs in the
tree, and the file that holds it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import py_compile
import sys

MODE = py_compile.PycInvalidationMode.UNCHECKED_HASH  # PEP 552: never compared with its source


def main(tree: str, folder: str) -> None:
    """Compile every source that standard input names."""
    made = {}
    for number, path in enumerate(json.load(sys.stdin)):
        target = f"{folder}/{number}"
        py_compile.compile(f"{tree}/{path}", target, path, doraise=True, invalidation_mode=MODE)
        made[os.path.relpath(importlib.util.cache_from_source(path))] = target
    json.dump(made, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
