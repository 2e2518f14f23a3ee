"""Check that the KV cache of all slots fits into the machine's memory, before it is allocated.

llama.cpp writes to all of it at once, and a system that overcommits memory then kills the process
without a message. How much a token takes is in llama.cpp's log. With some layers on graphics cards
the others' part counts; llama.cpp itself reports that a card's memory is too small.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

from backends._local.machine.free_memory import free_bytes
from kuwa_min.errors import StartError

logger = logging.getLogger(__name__)

# llama_kv_cache: size =   32.00 MiB (   256 cells,  32 layers,  1/1 seqs), K (f16): ...
SIZE = re.compile(r"_(?:kv_cache|memory_recurrent): size = +([\d.]+) MiB \( *(\d+) cells, .*seqs")
# llama_kv_cache:        CPU KV buffer size =     1.88 MiB, one a device, before the size
PART = re.compile(r"_(?:kv_cache|memory_recurrent): +(\S+) (?:KV|RS) buffer size = +([\d.]+) MiB")
STATE = "_memory_recurrent:"  # whose size does not depend on the length
IN_MACHINE = re.compile(r"CPU|.*_Host$")  # names of buffers in the machine's memory
MIB, GB = 2**20, 1e9


def check(
    log: Iterable[str], *, slots: int, length: int, uses_gpu: bool = False, mapped: float = 0
) -> None:
    """Raise StartError if the KV cache needs more memory than is free.

    log: llama.cpp's log lines about a context of one slot; length: of each slot, in tokens; mapped:
    bytes of weights that are read from the file itself. If they do not fit beside it, log that.
    """
    needed, free = _needed_bytes(log, slots, length), free_bytes(with_swap=True)
    if free is not None and needed > free:
        raise StartError(
            f"{length:,} tokens for each of {slots} chats take {needed / GB:.1f} GB, and "
            f"{free / GB:.1f} GB are free; lower --context_window or --concurrent_req_limit, or "
            f"choose a smaller --cache_type{', or raise --ngl' if uses_gpu else ''}"
        )
    if uses_gpu and free is not None and needed + mapped > free:
        logger.warning(
            "layers on the processor take up to %.1f GB of weights and %.1f GB for chats, and %.1f "
            "GB are free: the file may be read again and again; a higher --ngl, or a lower "
            "--context_window or --concurrent_req_limit helps",
            mapped / GB,
            needed / GB,
            free / GB,
        )


def _needed_bytes(log: Iterable[str], slots: int, length: int) -> float:
    """Return what all caches take of the machine's memory."""
    total = 0.0
    parts: dict[str, float] = {}  # device -> MiB, of the cache whose size comes next
    for line in log:
        if part := PART.search(line):
            parts[part[1]] = parts.get(part[1], 0) + float(part[2])
        if found := SIZE.search(line):
            cell = float(found[1]) * MIB / int(found[2]) * _share(parts)
            total += cell * slots * (1 if STATE in line else length)
            parts = {}
    return total


def _share(parts: dict[str, float]) -> float:
    """Return how much of a cache lies in the machine's memory; all if that is not stated."""
    here = sum(size for name, size in parts.items() if IN_MACHINE.match(name))
    return here / total if (total := sum(parts.values())) else 1.0
