"""Choose the CUDA variant of torch for an NVIDIA driver: what the driver runs, and what exists.

A driver runs the CUDA that it was released with, and all older ones. Newer ones of the same major
version run on it, too (NVIDIA: minor version compatibility), from the least driver of that version
on. Which variants there are of a version of torch, its index is asked.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from packaging.version import Version

from kuwa_min.errors import UsageError

from .lock import Lock, parse_requirement
from .resolve import NoSolution, WheelSources, torch_version
from .target import TargetPython

if TYPE_CHECKING:
    from kuwa_min.progress import LogStep

# The branch of the driver that each CUDA came with, on Linux: "CUDA Toolkit and Corresponding
# Driver Versions" in NVIDIA's release notes of CUDA. Variants: of torch 2.6, the least, and newer.
RELEASED_WITH = {
    "cu132": 595,
    "cu130": 580,
    "cu129": 575,
    "cu128": 570,
    "cu126": 560,
    "cu124": 550,
    "cu118": 520,
}
LEAST = {"cu13": 580, "cu12": 525, "cu11": 450}  # by CUDA's major version, the newest first


def variants(driver: str) -> list[str]:
    """Return the CUDA variants that a driver (550, 550.54.14) runs, the best first.

    Raises UsageError for what is no driver, or one that runs none.
    """
    if not re.fullmatch(r"[1-9][0-9]{2}(\.[0-9]+){0,2}", driver):
        raise UsageError(f"--driver is {driver!r}; give the version that nvidia-smi says: 550")
    branch = int(driver[:3])
    found: list[str] = []
    for major in (major for major, least in LEAST.items() if branch >= least):
        of_major = [name for name in RELEASED_WITH if name.startswith(major)]
        older = [name for name in of_major if RELEASED_WITH[name] <= branch]
        found += older + [name for name in reversed(of_major) if name not in older]
    if not found:
        raise UsageError(
            f"--driver {driver} is too old for every CUDA that torch is built for, which need "
            f"{min(LEAST.values())} or newer: carry in a newer driver, or build with --cpu"
        )
    return found


def for_driver(
    driver: str, target: TargetPython, sources: WheelSources, log_step: LogStep
) -> WheelSources:
    """Choose the variant of the preferred torch, or of the newest; raises UsageError."""
    wanted = _preferred_torch(target, sources)
    found: dict[str, Version] = {}
    for variant in variants(driver):
        try:
            asked = sources._replace(torch_variant=variant)
            found[variant] = Version(torch_version(wanted, target, asked))
        except NoSolution:
            continue
        if wanted != "torch":
            break
    if not found:
        asked_for = ", ".join(variants(driver))
        raise UsageError(
            f"{wanted} for {target} is built for no CUDA that driver {driver} runs ({asked_for} "
            "were looked for): carry in a newer driver, or try --newest, or --cpu"
        )
    best = max(found, key=lambda variant: Version(found[variant].public))
    log_step(f"driver {driver}: torch {found[best].public} for {best}")
    return sources._replace(torch_variant=best)


def _preferred_torch(target: TargetPython, sources: WheelSources) -> str:
    for line in sources.preferred:
        one = parse_requirement(line)
        if one.name == "torch" and not (one.marker and not one.marker.evaluate(target.environment)):
            return f"torch{one.specifier}"
    return "torch"


def check_variant(lock: Lock, driver: str) -> None:
    """Raise UsageError if a driver does not run the torch of a lock."""
    if lock.torch_variant not in variants(driver):
        found = lock.torch_variant or "whichever CUDA the usual index had"
        raise UsageError(
            f"the lock has torch for {found}, and driver {driver} runs "
            f"{', '.join(variants(driver))}; make another lock"
        )
