"""Load an mmproj file, and decide how much memory encoded pictures may take."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from backends._local.machine.free_memory import free_bytes
from kuwa_min.errors import StartError

from .mmproj_file import MmprojFile

if TYPE_CHECKING:
    from .picture_encoder import PictureEncoder

logger = logging.getLogger(__name__)

SHARE, MOST = 16, 2**28  # 1/16 of the free memory, and bytes at most, for encoded pictures
NO_LIBRARY = (
    "this build of llama.cpp reads no pictures (libmtmd is missing); a file built anew does"
)


def load(
    file: MmprojFile,
    model: Any,
    *,
    use_gpu: bool,
    threads: int,
    flash_attn: str,
    most_tokens: int,
    check_open: Callable[[], None],
) -> PictureEncoder | None:
    """Return what encodes pictures for a model, None if the file cannot be used.

    most_tokens: of a picture, about; a card's memory for them is allocated now; check_open: called
    meanwhile, ends loading with what it raises; all else: see Projector. Raises StartError for the
    file of --mmproj; logs why one that was found beside the model is not used.
    """
    try:
        try:
            from .picture_encoder import PictureEncoder
            from .projector import Projector
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            logger.debug("llama_cpp.mtmd_cpp: %s", error)
            raise StartError(NO_LIBRARY) from None
        projector = Projector(
            file.path,
            model,
            use_gpu=use_gpu,
            threads=threads,
            flash_attn=flash_attn,
            check_open=check_open,
        )
    except StartError as error:
        if file.is_given:
            raise StartError(f"--mmproj: {error}") from None
        logger.warning("no pictures are read: %s", error)
        return None
    if use_gpu:
        projector.try_largest(most_tokens)
    free = free_bytes()
    return PictureEncoder(projector, MOST if free is None else min(MOST, free // SHARE))
