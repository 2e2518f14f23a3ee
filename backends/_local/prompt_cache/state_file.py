"""A parked state as a file: written and read by a hash.

It begins with MAGIC and a SHA-256 of all that follows: the key, which stands for model, library and
context; the numbers of bytes; adapters; tokens; state. What differs in anything is no state.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from pathlib import Path

from .parked import ParkedState

MAGIC = b"kuwa-min prompt cache 2\n"
SIZES = struct.Struct("<QQQ")  # bytes of the adapters, of the tokens and of the state
KEY_BYTES = CHECKSUM_BYTES = 32
PRIVATE = 0o600


def write(path: Path, entry: ParkedState, key: bytes) -> None:
    """Write a state to a file that this user alone may read; raises OSError."""
    state = memoryview(entry.state).cast("B")
    adapters = entry.adapters.encode()
    head = key + SIZES.pack(len(adapters), len(entry.tokens), state.nbytes)
    parts = (head, adapters, entry.tokens, state)
    checksum = _checksum(*parts)
    path.touch(PRIVATE)
    with path.open("wb") as file:
        for part in (MAGIC, checksum, *parts):
            file.write(part)


def read(path: Path, key: bytes) -> ParkedState | None:
    """Return the state in a file, or None for a damaged or foreign one."""
    with contextlib.suppress(OSError, struct.error, MemoryError), path.open("rb") as file:
        magic, checksum = file.read(len(MAGIC)), file.read(CHECKSUM_BYTES)
        head = file.read(KEY_BYTES + SIZES.size)
        adapter_bytes, token_bytes, state_bytes = SIZES.unpack(head[KEY_BYTES:])
        left = os.fstat(file.fileno()).st_size - file.tell()
        is_ours = magic == MAGIC and head[:KEY_BYTES] == key
        if not is_ours or adapter_bytes + token_bytes + state_bytes != left:
            return None
        adapters, tokens = file.read(adapter_bytes), file.read(token_bytes)
        state = bytearray(state_bytes)
        file.readinto(state)
        if checksum == _checksum(head, adapters, tokens, state):
            return ParkedState(tokens, state, adapters.decode())
    return None


def _checksum(*parts: bytes | bytearray | memoryview) -> bytes:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.digest()
