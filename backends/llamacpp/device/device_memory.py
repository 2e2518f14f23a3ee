"""On what a model is computed, and how much memory it takes where: from llama.cpp's log."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

# using device CUDA0 (NVIDIA H100 80GB HBM3) (0000:01:00.0) - 80000 MiB free
DEVICE = re.compile(r"using device (\S+) \((.*)\) \([^()]*\) - \d+ MiB free")
OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers")
#   CUDA0 KV buffer size =   512.00 MiB
BUFFER = re.compile(r": +(\S+) +(\w[\w ]*) buffer size = +([\d.]+) MiB")
LATEST = "compute"  # logged anew when it grows; of all others there may be several
MIB, MB = 2**20, 1e6

Memory = dict[str, dict[str, float]]  # device -> kind ("model", "KV", "compute") -> bytes


class Placement(NamedTuple):
    """Where a model is computed."""

    devices: tuple[str, ...]  # "CUDA0 (NVIDIA H100)"; the processor, if there is no other
    layers: str  # "31/31" on graphics cards; "" if none are
    memory: Memory

    def facts(self) -> dict[str, Any]:
        """Return what /status says of it; sizes are in MB."""
        sizes = {
            device: {kind.lower(): round(size / MB, 1) for kind, size in kinds.items()}
            for device, kinds in self.memory.items()
        }
        layers = {"gpu_layers": self.layers} if self.layers else {}
        return {"device": ", ".join(self.devices), **layers, "memory_mb": sizes}

    def __str__(self) -> str:
        layers = f", {self.layers.replace('/', ' of ')} layers" if self.layers else ""
        sizes = "; ".join(
            f"{device} " + ", ".join(f"{kind} {size / MB:,.0f} MB" for kind, size in kinds.items())
            for device, kinds in self.memory.items()
        )
        return f"computes on {', '.join(self.devices)}{layers}; memory: {sizes or 'unknown'}"


def placement(log: Iterable[str], *, processor: str, uses_gpu: bool) -> Placement:
    """Return where a model is computed.

    log: llama.cpp's log lines of loading it and of creating its context; processor: its name, for a
    model that uses no graphics card.
    """
    lines = list(log)
    devices = tuple(f"{one[1]} ({one[2]})" for one in map(DEVICE.search, lines) if one)
    layers = [f"{one[1]}/{one[2]}" for one in map(OFFLOADED.search, lines) if one]
    return Placement(
        devices if uses_gpu and devices else (processor,),
        layers[-1] if uses_gpu and layers else "",
        by_device(lines),
    )


def by_device(log: Iterable[str]) -> Memory:
    """Return the bytes of the buffers that log lines speak of."""
    memory: Memory = {}
    for found in filter(None, map(BUFFER.search, log)):
        kinds, kind = memory.setdefault(found[1], {}), found[2]
        size = float(found[3]) * MIB
        kinds[kind] = size if kind == LATEST else kinds.get(kind, 0) + size
    return memory
