"""Write the zip's __main__.py: it looks for damage before Python runs anything else of the zip.

zipimport compares no CRC, and unmarshals whatever lies in a .pyc: damaged bytecode ends Python
without a word. So the first thing that runs is a source, and a short one; every Python since 2.7
parses it, as the launcher has a line for the old ones.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping

TEXT = """\
import sys
import zlib

SUMS = {sums}


def is_whole(loader):
    if type(loader).__name__ != "zipimporter":
        return True  # an unpacked archive
    try:
        return all(zlib.crc32(loader.get_data(name)) & 0xFFFFFFFF == SUMS[name] for name in SUMS)
    except Exception:
        return False


if not is_whole(__loader__):
    line = "%s is damaged: copy it again, and compare with its .sha256 (sha256sum -c)"
    sys.exit(line % sys.argv[0])

import kuwa_launch

kuwa_launch.main()
"""


def main_text(entries: Mapping[str, bytes], names: Iterable[str]) -> bytes:
    """Return a source that compares the CRC-32 of these entries, then starts the launcher.

    It compares the last entry, too: where zipimport meets damage in the zip's directory, it takes
    what it has read for the whole.
    """
    known = {name for name in names if name in entries} | {max(entries)}
    sums = {name: zlib.crc32(entries[name]) for name in sorted(known)}
    return TEXT.replace("{sums}", repr(sums)).encode("ascii")
