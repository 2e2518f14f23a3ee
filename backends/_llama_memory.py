"""Say before it is taken that the memory of all chats is more than this machine has.

llama.cpp writes to all of it at once, and a system that has promised more than there is ends the
process without a word. How much one token takes it says itself, in its log.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from kuwa_min.errors import StartError

MEMINFO = Path("/proc/meminfo")
FREE = ("MemAvailable", "SwapFree")
# llama_kv_cache: size =   32.00 MiB (   256 cells,  32 layers,  1/1 seqs), K (f16): ...
SIZE = re.compile(r"_(?:kv_cache|memory_recurrent): size = +([\d.]+) MiB \( *(\d+) cells, .*seqs")
STATE = "_memory_recurrent:"
MIB, KIB, GB = 2**20, 2**10, 1e9


def check(said: Iterable[str], *, rows: int, length: int) -> None:
    """Raise StartError if rows of this length take more than is free.

    said: what llama.cpp said when it made a context of a single row.
    """
    needed, free = _needed(said, rows, length), _free()
    if free is not None and needed > free:
        raise StartError(
            f"{length:,} tokens for each of {rows} chats take {needed / GB:.1f} GB, and "
            f"{free / GB:.1f} GB are free; lower --context_window or --concurrent_req_limit, or "
            "choose a smaller --cache_type"
        )


def _needed(said: Iterable[str], rows: int, length: int) -> float:
    """Return the bytes of all rows."""
    total = 0.0
    for line in said:
        found = SIZE.search(line)
        if found:
            each = float(found[1]) * MIB / int(found[2])
            total += each * rows * (1 if STATE in line else length)
    return total


def _free() -> int | None:
    """Return the bytes that the system can give; None if it does not say."""
    try:
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    known = dict(line.split(":", 1) for line in lines if ":" in line)
    return sum(int(known[name].split()[0]) * KIB for name in FREE if name in known)
