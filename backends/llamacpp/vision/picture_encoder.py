"""Turn the pictures of chats into tokens, and encode them while the engine goes on.

Each turn of a chat brings its earlier pictures again: encoded pictures are cached by their hash.
"""

# Memory. A picture of 50 million pixels takes hundreds of MB until it is scaled down, so that only
# one is prepared at a time.
#
# Threads. Encoding takes as long as reading hundreds of tokens. It runs on a thread of its own, one
# picture at a time, and the request's thread waits. That thread ends with the picture: OpenMP keeps
# a team of threads for each thread that computes, and with a second team libgomp sends those of the
# engine to sleep at every barrier, as long as both exist.

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from functools import partial

from backends._media.attachments import Attachment
from backends._media.fetch_cache import FetchCache
from backends._media.fetch_policy import LinkError
from backends._media.pictures import open_image, scaled_down
from backends._media.sentences import LINK_NOT_TAKEN
from kuwa_min.process import supervision

from .media import Encoded
from .projector import Prepared, Projector, Unusable

logger = logging.getLogger(__name__)

FLOAT_BYTES = 4
KEPT_SECONDS = 24 * 3600.0
POLL = 0.1  # seconds between two checks whether a chat that waits for its turn was stopped


class Picture:
    """A picture's tokens; key: the same for equal pictures; encoded: its spans, once encoded."""

    def __init__(self, key: str, prepared: Prepared) -> None:
        self.key = key
        self.ids = prepared.ids
        self.span_ids = [tuple(ids) for _, ids in prepared.spans]
        self.prepared: Prepared | None = prepared
        self.encoded: list[Encoded] = []


class PictureEncoder:
    """Prepares and encodes pictures for all requests; for their threads.

    max_bytes: of encoded pictures that are kept.
    """

    def __init__(self, projector: Projector, max_bytes: int) -> None:
        self._projector, self.max_bytes = projector, max_bytes
        self.path, self.memory = projector.path, projector.memory
        self._kept: FetchCache[Picture] = FetchCache(most_bytes=max_bytes, seconds=KEPT_SECONDS)
        self._preparing, self._encoding = threading.Lock(), threading.Lock()
        self._encoded = self._reused = 0

    def facts(self) -> dict[str, int]:
        """Return the size and the use of the cache, for /status and /metrics."""
        return {
            "entries": len(self._kept),
            "bytes": self._kept.bytes,
            "max_bytes": self.max_bytes,
            "encoded": self._encoded,
            "reused": self._reused,
        }

    def fact(self, name: str) -> int:
        """Return one of the facts."""
        return self.facts()[name]

    def prepare(self, file: Attachment, most: int, check_stopped: Callable[[], object]) -> Picture:
        """Return a picture, scaled down to `most` tokens if possible.

        Raises LinkError for one that cannot be used, and what check_stopped() raises.
        """
        key = f"{most} {hashlib.sha256(file.data).hexdigest()}"
        if known := self._kept.get(key):
            return known
        with _held(self._preparing, check_stopped):
            return Picture(key, self._prepare(file, most))

    def _prepare(self, file: Attachment, most: int) -> Prepared:
        projector = self._projector
        image = open_image(file)
        try:
            scaled, _ = scaled_down(image, most, lambda one: projector.count_tokens(*one.size))
            return projector.prepare(*scaled.size, scaled.tobytes())
        except Unusable as error:
            logger.warning("a picture cannot be used: %s", error)
            raise LinkError(LINK_NOT_TAKEN) from None

    def encode(self, picture: Picture, check_stopped: Callable[[], object]) -> list[Encoded]:
        """Return a picture's encoded spans, from the cache if they are there; may take seconds.

        Raises RuntimeError if encoding fails, and what check_stopped() raises.
        """
        if picture.encoded:
            self._reused += 1
            return picture.encoded
        with _held(self._encoding, check_stopped):
            known = self._kept.get(picture.key)  # twice in this chat, or in another one meanwhile
            if known and known.span_ids == picture.span_ids:
                self._reused += 1
                return known.encoded
            return self._encode(picture, check_stopped)

    def _encode(self, picture: Picture, check_stopped: Callable[[], object]) -> list[Encoded]:
        assert picture.prepared is not None
        encoded = []
        for chunk, ids in picture.prepared.spans:
            check_stopped()
            encoded.append(_on_a_thread(partial(self._projector.encode, chunk, ids)))
        picture.encoded, picture.prepared = encoded, None  # which holds its pixels
        self._encoded += 1
        size = len(picture.ids) * self._projector.width * FLOAT_BYTES
        self._kept.put(picture.key, picture, size)
        return encoded


@contextlib.contextmanager
def _held(lock: threading.Lock, check_stopped: Callable[[], object]) -> Iterator[None]:
    """Hold a lock in this block; raises what check_stopped() raises while waiting for it."""
    while not lock.acquire(timeout=POLL):
        check_stopped()
    try:
        yield
    finally:
        lock.release()


def _on_a_thread(work: Callable[[], Encoded]) -> Encoded:
    """Return work()'s result, computed on a thread that ends then; raise what it raises."""
    done: list[Encoded] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:  # noqa: BLE001 - raised by the thread that waits
            failed.append(error)

    thread = supervision.Thread("picture", run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]
