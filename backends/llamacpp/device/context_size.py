"""Choose the length of slots: the longest that fits into the memory of all devices.

llama.cpp logs how much memory contexts of two lengths take on each device. Keys, values and compute
buffers grow in proportion to the length, and all but the compute buffers with the slots.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from backends.llamacpp.batching.context_params import PADDING

from .device_memory import LATEST, by_device
from .kv_memory import IN_MACHINE

logger = logging.getLogger(__name__)

LENGTHS = (PADDING, 4096)  # tokens, of the contexts that are tried
PER_SLOT = ("KV", "RS")  # kinds of buffers: keys and values, recurrent states
MACHINE = "CPU"  # the name, here, of the device of all buffers in the machine's memory
MACHINE_SHARE = 0.75  # of what is free; parked chats, other programs and answers need some, too
CARD_SHARE = 0.875
GB = 1e9


class Demand(NamedTuple):
    """The bytes that a context takes of a device."""

    per_slot: float  # of any length
    per_token: float  # of a slot
    fixed: float
    per_length: float  # per token of the slots' length, for all slots together

    def total(self, slots: int, length: int) -> float:
        """Return the bytes of a context of `slots` sequences of `length` tokens each."""
        state = slots * (self.per_slot + length * self.per_token)
        return state + self.fixed + length * self.per_length

    def longest(self, slots: int, room: float) -> float:
        """Return the greatest length that takes `room` bytes at most; inf if it costs nothing."""
        slope = slots * self.per_token + self.per_length
        left = room - self.fixed - slots * self.per_slot
        return max(0.0, left) / slope if slope else math.inf


def demands(
    short: Iterable[str], long: Iterable[str], lengths: tuple[int, int]
) -> Mapping[str, Demand]:
    """Return what contexts take of each device, by its name.

    short, long: llama.cpp's log lines about contexts of one slot of these lengths, in tokens.
    """
    before, after = _sizes(short), _sizes(long)
    return {
        device: Demand(
            *_line(before.get(device, (0, 0))[0], sizes[0], lengths),
            *_line(before.get(device, (0, 0))[1], sizes[1], lengths),
        )
        for device, sizes in after.items()
    }


def _sizes(log: Iterable[str]) -> dict[str, tuple[float, float]]:
    """Return (the bytes of a slot, those of all slots together) of each device."""
    found: dict[str, tuple[float, float]] = {}
    for name, kinds in by_device(log).items():
        device = MACHINE if IN_MACHINE.match(name) else name
        slot, shared = found.get(device, (0.0, 0.0))
        slot += sum(kinds.get(kind, 0) for kind in PER_SLOT)
        found[device] = slot, shared + kinds.get(LATEST, 0)
    return found


def _line(first: float, second: float, lengths: tuple[int, int]) -> tuple[float, float]:
    """Return (the value at 0, the slope) of the line through two points."""
    slope = max(0.0, (second - first) / (lengths[1] - lengths[0]))
    return max(0.0, first - slope * lengths[0]), slope


def choose(
    needed: Mapping[str, Demand],
    room: Callable[[str], float],
    takes: Callable[[int], bool],
    *,
    slots: int,
    trained: int,
) -> int:
    """Return the length of slots in tokens, and log it.

    room: the bytes that contexts may take of a device; takes: whether devices can address the
    tensors of slots of this length, else half of it is tried; trained: the tokens that the model
    was trained with, beyond which no slot goes.
    """
    rooms = {device: room(device) for device in needed}
    fits = min((one.longest(slots, rooms[name]) for name, one in needed.items()), default=trained)
    length = trained if fits >= trained else max(PADDING, int(fits) // PADDING * PADDING)
    while length > PADDING and not takes(length):
        length = max(PADDING, length // 2 // PADDING * PADDING)
    taken = ", ".join(
        f"{one.total(slots, length) / GB:.1f} of {rooms[name] / GB:.1f} GB on {name}"
        for name, one in needed.items()
    )
    logger.info(
        "--context_window auto: %s tokens for each of %d chats, of %s that the model was trained "
        "with; that takes %s",
        *(f"{length:,}", slots, f"{trained:,}", taken),
    )
    return length


def room_of(device: str, *, free: float | None, mapped: float) -> float:
    """Return the bytes that contexts may take of what is free on a device.

    free: None if that is unknown; mapped: bytes of weights that are read from the file itself,
    which count as free.
    """
    if free is None:
        return math.inf
    if device != MACHINE:
        return free * CARD_SHARE
    return max(0.0, free - mapped) * MACHINE_SHARE
