"""What a build asks for: a backend's libraries, for which machine, and where they may come from."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from packaging.utils import canonicalize_name

from kuwa_min.packing.llama_cpp.ggml_backend import GgmlBackend
from kuwa_min.packing.wheels.lock import parse_requirement
from kuwa_min.packing.wheels.resolve import WheelSources
from kuwa_min.packing.wheels.target import TargetPython
from kuwa_min.registry import BackendInfo


class LibraryRequest(NamedTuple):
    """Which backend needs libraries, for which target, and where wheels may come from."""

    backend: BackendInfo
    target: TargetPython
    sources: WheelSources
    lock: Path | None  # followed, or written if absent; None: resolve anew
    wheelhouse: Path  # downloaded and compiled wheels are kept here for the next build
    host_packages: tuple[str, ...]  # provided by the host's Python: --thin
    more: tuple[str, ...] = ()  # requirements beside those of the backend: --with
    driver: str = ""  # NVIDIA's, which torch shall run with: --driver
    llama_index: str = ""  # of compiled wheels of llama.cpp: --llama_index
    gpu: GgmlBackend | None = None  # to add to llama.cpp: --cuda, --vulkan

    @property
    def requirements(self) -> list[str]:
        """Return what the backend requires, and what --with adds."""
        return [*self.backend.requires.values(), *self.more]

    @property
    def needed(self) -> list[str]:
        """Return the requirements that travel: those that are not left to the host."""
        return [one for one in self.requirements if package_of(one) not in self.host_packages]

    def needed_of(self, package: str) -> str:
        """Return what is required of a package that travels; "" if it does not."""
        return next((one for one in self.needed if package_of(one) == package), "")


def package_of(requirement: str) -> str:
    """Return the normalised name in a requirement: "llama-cpp-python"; raises UsageError."""
    return canonicalize_name(parse_requirement(requirement).name)
