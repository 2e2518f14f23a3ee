"""Check that a device takes a layer's part of the KV cache as one tensor, before it is allocated.

llama.cpp holds the keys of a layer in one tensor for all slots, and the values in another. Vulkan
limits how much of a buffer a program can address (4 GB on most graphics cards), and llama.cpp ends
the process where a tensor is larger. Sizes and devices are in llama.cpp's log.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from kuwa_min.errors import StartError

# llama_kv_cache: size =   32.00 MiB (   256 cells,  32 layers,  1/1 seqs), K (f16):   16.00 MiB
CACHE = re.compile(r"_kv_cache: size = .*\( *(\d+) cells, *(\d+) layers, .*seqs\), (.+)")
PART = re.compile(r"\w+ \(\w+\): +([\d.]+) MiB")
DEVICE = re.compile(r"_kv_cache: +(\S+) KV buffer size")
MIB, ROUNDING, MB = 2**20, 0.005, 1e6  # MiB have two decimals

Takes = Callable[[str, int], bool]  # whether a device supports a tensor of this size in bytes


def check(log: Iterable[str], takes: Takes, *, slots: int, length: int) -> None:
    """Raise StartError if a device does not take a tensor of the KV cache.

    log: llama.cpp's log lines about a context of one slot; length: of each slot, in tokens.
    """
    lines = list(log)
    per_token = max(map(_tensor_bytes_per_token, lines), default=0)
    for device in dict.fromkeys(found[1] for found in map(DEVICE.search, lines) if found):
        size = int(per_token * slots * length)
        if not takes(device, size):
            fits = _fitting_length(device, takes, per_token * slots)
            raise StartError(
                f"{length:,} tokens for each of {slots} chats take {size / MB:,.0f} MB in a layer, "
                f"more than {device} can hold as one tensor; lower --context_window (it can hold "
                f"{fits:,}) or --concurrent_req_limit, or choose a smaller --cache_type"
            )


def _fitting_length(device: str, takes: Takes, per_token: float) -> int:
    """Return the longest slot that the device can hold, as a power of two of tokens."""
    length = 1
    while takes(device, int(per_token * length * 2)):
        length *= 2
    return length


def _tensor_bytes_per_token(line: str) -> float:
    """Return how much a token takes of the largest tensor that a log line speaks of; 0 if none."""
    found = CACHE.search(line)
    if not found:
        return 0
    parts = [float(size) for size in PART.findall(found[3])]
    cells, layers = int(found[1]), int(found[2])
    return (max(parts, default=0) + ROUNDING) * MIB / layers / cells
