"""Remember the tokens of texts: on each turn of a chat, all but the last messages come again."""

from __future__ import annotations

import sys
import threading
from array import array
from collections import OrderedDict

MAX_BYTES = 32 * 2**20  # of texts and tokens
ENTRY_BYTES = 200  # of what surrounds them, about


Key = tuple[str, str]  # how a text is tokenized, and the text


class TokenCache:
    """The tokens of the texts that were used last; for any thread."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._entries: OrderedDict[Key, array[int]] = OrderedDict()  # the oldest first
        self._lock = threading.Lock()

    def get(self, key: Key) -> list[int] | None:
        """Return a text's tokens; None if they are not remembered."""
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                return None
            self._entries.move_to_end(key)
        return found.tolist()

    def put(self, key: Key, ids: list[int]) -> None:
        """Remember a text's tokens; forget those that were not used for longest."""
        tokens = array("i", ids)
        with self._lock:
            if key in self._entries:
                return
            self._entries[key] = tokens
            self._bytes += _size(key, tokens)
            while self._bytes > self._max_bytes:
                self._bytes -= _size(*self._entries.popitem(last=False))


def _size(key: Key, tokens: array[int]) -> int:
    return sys.getsizeof(key[1]) + sys.getsizeof(tokens) + ENTRY_BYTES
