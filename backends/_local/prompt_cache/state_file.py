"""A parked state as a file: written and read by a hash.

It begins with MAGIC and a SHA-256 of all that follows: the key, which stands for model, library and
context; the numbers of bytes; tokens; state. What differs from that in anything is no state.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from pathlib import Path

from .parked import ParkedState

MAGIC = b"kuwa-min prompt cache 1\n"
SIZES = struct.Struct("<QQ")  # bytes of the tokens and of the state
KEY_BYTES = CHECKSUM_BYTES = 32
PRIVATE = 0o600


def write(path: Path, entry: ParkedState, key: bytes) -> None:
    """Write a state to a file that this user alone may read; raises OSError."""
    state = memoryview(entry.state).cast("B")
    head = key + SIZES.pack(len(entry.tokens), state.nbytes)
    checksum = _checksum(head, entry.tokens, state)
    path.touch(PRIVATE)
    with path.open("wb") as file:
        for part in (MAGIC, checksum, head, entry.tokens, state):
            file.write(part)


def read(path: Path, key: bytes) -> ParkedState | None:
    """Return the state in a file, or None for a damaged or foreign one."""
    with contextlib.suppress(OSError, struct.error, MemoryError), path.open("rb") as file:
        magic, checksum = file.read(len(MAGIC)), file.read(CHECKSUM_BYTES)
        head = file.read(KEY_BYTES + SIZES.size)
        token_bytes, state_bytes = SIZES.unpack(head[KEY_BYTES:])
        left = os.fstat(file.fileno()).st_size - file.tell()
        is_ours = magic == MAGIC and head[:KEY_BYTES] == key
        if not is_ours or token_bytes + state_bytes != left:
            return None
        tokens, state = file.read(token_bytes), bytearray(state_bytes)
        file.readinto(state)
        if checksum == _checksum(head, tokens, state):
            return ParkedState(tokens, state)
    return None


def _checksum(*parts: bytes | bytearray | memoryview) -> bytes:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.digest()
