"""Find the vision part of a model (mmproj): the file of --mmproj, or the one beside the model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

from backends._local.model_files import resolve
from kuwa_min.errors import UsageError

logger = logging.getLogger(__name__)

NONE = "none"
IN_NAME, SUFFIX = "mmproj", ".gguf"


class MmprojFile(NamedTuple):
    """The file of a model's vision part; is_given: by --mmproj, so that it must work."""

    path: Path
    is_given: bool


def find(model: Path, argument: str | None) -> MmprojFile | None:
    """Return the file for a model, None for no pictures; raises UsageError for a bad --mmproj.

    argument: that of --mmproj.
    """
    if argument == NONE:
        return None
    if argument is not None:
        return MmprojFile(resolve.mmproj_file(argument), is_given=True)
    found = [
        one
        for one in sorted(model.parent.iterdir())
        if IN_NAME in (name := one.name.lower()) and name.endswith(SUFFIX) and one != model
    ]
    if len(found) > 1:
        logger.info(
            "no pictures are read: %d mmproj files are beside the model; --mmproj chooses one",
            len(found),
        )
    if len(found) != 1:
        return None
    try:
        path = resolve.mmproj_file(str(found[0]))
    except UsageError as error:
        logger.warning("no pictures are read: %s", error)
        return None
    logger.info("%s is beside the model: pictures are read; --mmproj none reads none", path.name)
    return MmprojFile(path, is_given=False)
