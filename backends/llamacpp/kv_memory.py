"""Check that the KV cache of all slots fits into memory, before it is allocated.

llama.cpp writes to all of it at once, and a system that overcommits memory then kills the process
without a message. How much a token takes is in llama.cpp's log.
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
STATE = "_memory_recurrent:"  # whose size does not depend on the length
MIB, KIB, GB = 2**20, 2**10, 1e9


def check(log: Iterable[str], *, slots: int, length: int) -> None:
    """Raise StartError if the KV cache needs more memory than is free.

    log: llama.cpp's log lines about a context of one slot; length: of each slot, in tokens.
    """
    needed, free = _needed_bytes(log, slots, length), _free_bytes()
    if free is not None and needed > free:
        raise StartError(
            f"{length:,} tokens for each of {slots} chats take {needed / GB:.1f} GB, and "
            f"{free / GB:.1f} GB are free; lower --context_window or --concurrent_req_limit, or "
            "choose a smaller --cache_type"
        )


def _needed_bytes(log: Iterable[str], slots: int, length: int) -> float:
    total = 0.0
    for line in log:
        found = SIZE.search(line)
        if found:
            cell = float(found[1]) * MIB / int(found[2])
            total += cell * slots * (1 if STATE in line else length)
    return total


def _free_bytes() -> int | None:
    """Return the free memory and swap; None if the system does not state it."""
    try:
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    known = dict(line.split(":", 1) for line in lines if ":" in line)
    return sum(int(known[name].split()[0]) * KIB for name in FREE if name in known)
