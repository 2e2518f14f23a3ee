"""Which NVIDIA cards a library of CUDA code can compute on.

CUDA finds out at the first kernel that a library has no code for a card, and llama.cpp then ends
the process. Here the driver is asked before.
"""

from __future__ import annotations

import ctypes
import mmap
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

DRIVER = "libcuda.so.1"
MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_...
SUCCESS = 0
NAME_BYTES = 256
# As CMake names them: 86-real (machine code), 90-virtual (PTX, which a driver compiles for newer
# cards), 90 (both), 120a-real (of this card alone), 100f-real (of newer minor versions, too).
ARCHITECTURE = re.compile(r"(\d+)(\d)([af]?)(-real|-virtual)?")
FIRST_OF_CUDA_13 = (7, 5)  # older cards need a CUDA 12 compiler, which PyPI does not have
# Within a library, each source's code is a fatbin: magic number, version, length of this header and
# of what follows: parts, each for one architecture, with a header of kind, version, two lengths...
FATBIN, FATBIN_HEADER = struct.Struct("<IHHQ"), (0xBA55ED50, 1, 16)
PART = struct.Struct("<H2xIQ12xI")  # kind, lengths of header and code, architecture
KINDS = {1: "virtual", 2: "real"}

Capability = tuple[int, int]  # the compute capability of a card, or of code


class Card(NamedTuple):
    """A card as CUDA numbers it, which CUDA_VISIBLE_DEVICES changes."""

    number: int
    name: str
    capability: Capability

    def __str__(self) -> str:
        return f"CUDA{self.number} ({self.name})"


def read_architectures(library: Path) -> list[str]:
    """Return what a library has code for: what a text file beside it says, or else what is in it.

    Only the former knows the letter of 120a. [] for a library without code.
    """
    try:
        return library.with_suffix(".architectures").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return compiled_for(library)


def compiled_for(library: Path) -> list[str]:
    """Return the architectures of the code in a library, as "75-real", "90-virtual"."""
    try:
        with library.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
            return sorted(set(_parts(data)))
    except (OSError, ValueError, struct.error):  # no such file, or one that ends too early
        return []


def _parts(data: mmap.mmap) -> Iterator[str]:
    place, magic = -1, FATBIN.pack(FATBIN_HEADER[0], 0, 0, 0)[:4]
    while (place := data.find(magic, place + 1)) >= 0:
        *header, size = FATBIN.unpack_from(data, place)
        if tuple(header) == FATBIN_HEADER:  # else another number that looks alike
            end, place = place + FATBIN.size + size, place + FATBIN.size
            while place < end:
                kind, header_size, code_size, architecture = PART.unpack_from(data, place)
                if kind in KINDS:
                    yield f"{architecture}-{KINDS[kind]}"
                place += max(header_size + code_size, PART.size)


def fault(architectures: Iterable[str], cards: Iterable[Card]) -> str:
    """Return why the first of the cards that has no code cannot be used; "" if all have some."""
    known = [found for one in architectures if (found := ARCHITECTURE.fullmatch(one))]
    cards = list(cards) if known else []
    bad = [one for one in cards if not any(_runs_on(code, one.capability) for code in known)]
    if not bad:
        return ""
    major, minor = bad[0].capability
    has = ", ".join(map(_readable, known))
    others = "; --visible_gpu can leave it out" if len(bad) < len(cards) else ""
    return (
        f"{bad[0]} has the compute capability {major}.{minor}, and this file has code for {has}; "
        f"one that computes on it is made by {_build_line(bad[0].capability)}{others}"
    )


def _runs_on(architecture: re.Match[str], card: Capability) -> bool:
    capability, suffix, kind = _capability(architecture), architecture[3], architecture[4]
    if suffix == "a":
        return capability == card
    same_major = capability[0] == card[0] and capability <= card
    return same_major or (kind != "-real" and not suffix and capability <= card)


def _capability(architecture: re.Match[str]) -> Capability:
    return int(architecture[1]), int(architecture[2])


def _readable(architecture: re.Match[str]) -> str:
    """Return "8.6", or "9.0 and newer" where PTX is there."""
    major, minor = _capability(architecture)
    is_open = architecture[4] != "-real" and not architecture[3]
    return f"{major}.{minor}{architecture[3]}{' and newer' if is_open else ''}"


def _build_line(capability: Capability) -> str:
    if capability < FIRST_OF_CUDA_13:
        return "build.py llamacpp --vulkan"
    return "build.py llamacpp --cuda {}{}".format(*capability)


def find_cards() -> list[Card]:
    """Return the cards that the driver lists; [] without a driver."""
    try:
        driver = ctypes.CDLL(DRIVER)
        return _ask(driver)
    except (OSError, AttributeError):  # no driver, or one without these functions
        return []


def _ask(driver: ctypes.CDLL) -> list[Card]:
    count = ctypes.c_int(0)
    if driver.cuInit(0) != SUCCESS or driver.cuDeviceGetCount(ctypes.byref(count)) != SUCCESS:
        return []
    cards = []
    for number in range(count.value):
        device, values = ctypes.c_int(), [ctypes.c_int(), ctypes.c_int()]
        name = ctypes.create_string_buffer(NAME_BYTES)
        results = [
            driver.cuDeviceGet(ctypes.byref(device), number),
            driver.cuDeviceGetName(name, NAME_BYTES, device),
            *(
                driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
                for value, attribute in zip(values, (MAJOR, MINOR), strict=True)
            ),
        ]
        if not any(results):
            text = name.value.decode("utf-8", "replace")
            cards.append(Card(number, text, (values[0].value, values[1].value)))
    return cards
