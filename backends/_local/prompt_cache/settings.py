"""The options of the prompt cache, and what they mean for a loaded model."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from backends._local.machine.free_memory import free_bytes
from kuwa_min.errors import StartError, UsageError
from kuwa_min.options import types

from .cache import PromptCache
from .state_files import StateFiles, check_folder

logger = logging.getLogger(__name__)

SHARE, MOST = 4, 8 * 2**30  # of the free memory, and bytes at most, unless told
HEAD_BYTES = 2**20  # of each file of the model that are hashed, and SAMPLES of its other parts
SAMPLES, SAMPLE_BYTES = 16, 2**16
GB = 1e9


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the prompt cache."""
    add = parser.add_argument_group("options of the prompt cache").add_argument
    add(
        "--prompt_cache",
        type=types.size,
        metavar="SIZE",
        help="memory for what was read of chats whose places others took, such as 2GiB or 500MB; "
        "0: none. None: a quarter of what is free once the model is loaded, 8GiB at most",
    )
    add(
        "--prompt_cache_dir",
        metavar="DIR",
        help="keep that on disk as well, for the next start. Off unless told: the folder then "
        "holds what people wrote, readable by this user only",
    )


class CacheSettings:
    """What the command line says of the prompt cache; cache: what create() returned."""

    cache: PromptCache | None = None

    def __init__(self, args: argparse.Namespace) -> None:
        """Check the options; raises UsageError for a folder that is not this user's alone."""
        self._max_bytes: int | None = args.prompt_cache
        if args.prompt_cache_dir == "":
            raise UsageError("--prompt_cache_dir is empty; name a folder, or leave it out")
        self._folder = Path(args.prompt_cache_dir) if args.prompt_cache_dir else None
        if args.reproducible:
            self.note_unused("with --reproducible")
            self._max_bytes, self._folder = 0, None
        if self._folder and self._max_bytes == 0:
            raise UsageError(
                "--prompt_cache_dir keeps what --prompt_cache 0 forgets; give one only"
            )
        if self._folder:
            check_folder(self._folder)

    def note_unused(self, reason: str) -> None:
        """Say that the options have no effect, if there are any."""
        if self._max_bytes or self._folder:
            logger.warning("--prompt_cache has no effect %s", reason)

    def create(self, *, files: Iterable[Path], taken: float = 0, **facts: Any) -> PromptCache:
        """Return the cache of a loaded model, for its engine to attach to.

        Raises StartError if there is no memory for it. files: of the model; taken: bytes of
        weights that are read from them again and again, and of what else will be kept in memory;
        facts: all else that a state depends on.
        """
        max_bytes = self._budget(taken)
        if max_bytes:
            logger.info("up to %.1f GB of memory for parked chats", max_bytes / GB)
        disk = None
        if self._folder and max_bytes:
            disk = StateFiles(self._folder.absolute(), key(files, **facts))
        self.cache = PromptCache(max_bytes, disk)
        return self.cache

    def _budget(self, taken: float) -> int:
        free = free_bytes()
        if self._max_bytes is None:
            return MOST if free is None else max(0, min(MOST, int(free - taken) // SHARE))
        if free is not None and self._max_bytes > free:
            raise StartError(
                f"--prompt_cache {self._max_bytes / GB:.1f}GB is more than the {free / GB:.1f} GB "
                "that are free beside the model; choose less, or leave it out"
            )
        return self._max_bytes


def key(files: Iterable[Path], **facts: Any) -> bytes:
    """Return what stands for a model and for how it is computed: states differ if it does.

    Of each file: name, size, time of the last change, and a hash of the first MiB and of samples up
    to its end. Where times say nothing (images of containers), those tell retrained weights.
    """
    seen = [_fingerprint(path) for path in sorted(files)]
    everything = [seen, facts, platform.machine()]
    return hashlib.sha256(json.dumps(everything, sort_keys=True, default=str).encode()).digest()


def _fingerprint(path: Path) -> tuple[str, int, int, str]:
    status = path.stat()
    with path.open("rb") as file:
        hashed = hashlib.sha256(file.read(HEAD_BYTES))
        for number in range(1, SAMPLES + 1):
            file.seek(max(0, status.st_size * number // SAMPLES - SAMPLE_BYTES))
            hashed.update(file.read(SAMPLE_BYTES))
    return path.name, status.st_size, status.st_mtime_ns, hashed.hexdigest()
