"""Fetch the wheels of a lock, each with one of the hashes that the lock has for it."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from kuwa_min.errors import UsageError

from .lock import Lock, Pin
from .resolve import WheelSources
from .target import TargetPython
from .wheelhouse import WheelCandidate, find_candidates, local_folder, sha256_of

if TYPE_CHECKING:
    from kuwa_min.progress import LogStep

Wheels = dict[Path, str]  # the path of a wheel: its SHA-256 in hex
STDERR = 2  # pip reports its progress there; stdout is for what build.py makes
MAX_NAMED = 5  # packages in one message


def fetch_wheels(lock: Lock, sources: WheelSources, wheelhouse: Path, log_step: LogStep) -> Wheels:
    """Return the wheel of each pin and its SHA-256, sorted by file name; raises UsageError.

    The user's own folders are searched first, then the wheelhouse, which is kept between builds
    and which pip downloads missing wheels to. Nothing is copied.
    """
    wheelhouse.mkdir(parents=True, exist_ok=True)
    found, missing = _find(lock.pins, lock.target, (*sources.folders, wheelhouse))
    _check_own_wheels(lock, sources, found)
    if missing:
        _check_downloadable(missing, lock.target, sources)
        log_step(f"downloading {len(missing)} of {len(lock.pins)} packages")
        _download(missing, lock, sources, wheelhouse)
        more, still = _find(missing, lock.target, [wheelhouse])
        if still:
            raise UsageError(f"pip brought no wheel for {lock.target} of {_listed(still)}")
        found |= more
    return dict(sorted(found.items(), key=lambda wheel: wheel[0].name))


def fetch_from_index(
    requirement: str, index: str, target: TargetPython, wheelhouse: Path, log_step: LogStep
) -> Path:
    """Download the newest wheel of an index of others; return its folder; raises UsageError.

    Such an index has one package, no hashes, and nothing that the package requires.
    """
    folder = wheelhouse / f"index-{hashlib.sha256(index.encode()).hexdigest()[:12]}"
    log_step(f"downloading {requirement} for {target} from {index}")
    options = [*_options(Lock("", target, ()), WheelSources()), "-d", str(folder)]
    options.remove("--require-hashes")
    command = [*pip_command(), *options, "--index-url", index, requirement]
    if subprocess.run(command, stdout=STDERR).returncode:
        raise UsageError(
            f"{index} gives no wheel of {requirement} for {target}; above pip says why"
        )
    return folder


def _find(
    pins: Sequence[Pin], target: TargetPython, folders: Sequence[Path]
) -> tuple[Wheels, list[Pin]]:
    """Return the wheels that these folders have, and the pins without one."""
    known = find_candidates(folders, target)
    choices = [known.of(pin.name, pin.version) for pin in pins]
    matches = _hashed(list(zip(pins, choices, strict=True)))
    found = dict(match for match in matches if match)
    return found, [pin for pin, match in zip(pins, matches, strict=True) if not match]


def _hashed(work: Sequence[tuple[Pin, list[WheelCandidate]]]) -> list[tuple[Path, str] | None]:
    """Hash in threads, the largest file first, so that the others overlap with it."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        order = sorted(range(len(work)), key=lambda place: -_size(work[place][1]))
        futures = {place: pool.submit(_match, *work[place]) for place in order}
        return [futures[place].result() for place in range(len(work))]


def _size(candidates: Sequence[WheelCandidate]) -> int:
    return candidates[0].path.stat().st_size if candidates else 0


def _match(pin: Pin, candidates: Sequence[WheelCandidate]) -> tuple[Path, str] | None:
    """Return the best candidate whose hash is in the lock."""
    for candidate in candidates:
        digest = sha256_of(candidate.path)
        if digest in pin.hashes:
            return candidate.path, digest
    return None


def _check_own_wheels(lock: Lock, sources: WheelSources, found: Wheels) -> None:
    """Raise UsageError if a wheel of --wheels is not the one of the lock."""
    candidates = find_candidates(sources.wheels, lock.target)
    for pin in lock.pins:
        own = [one for one in candidates.suitable if one.name == pin.name]
        if own and not any(one.path in found for one in own):
            raise UsageError(_mismatch(pin, (candidates.of(pin.name, pin.version) or own)[0]))


def _check_downloadable(
    missing: Sequence[Pin], target: TargetPython, sources: WheelSources
) -> None:
    """Raise UsageError if there is no index and no remote --find_links to download from."""
    if not sources.no_index or not all(map(local_folder, sources.find_links)):
        return
    candidates = find_candidates(sources.folders, target)
    for pin in missing:
        for other in candidates.of(pin.name, pin.version):
            raise UsageError(_mismatch(pin, other))
    places = ", ".join(map(str, sources.folders)) or "no folder at all"
    raise UsageError(f"no wheel for {target} of {_listed(missing)} in {places}: carry it in")


def _mismatch(pin: Pin, found: WheelCandidate) -> str:
    if str(found.version) != pin.version:
        return f"{found.path} is not {pin.name} {pin.version} of the lock; make another lock"
    expected = pin.hashes[0] if len(pin.hashes) == 1 else f"one of the lock's {len(pin.hashes)}"
    return (
        f"{found.path} is not the file of the lock: its sha256 should be {expected}, it is "
        f"{sha256_of(found.path)}; fetch the file again, or make another lock"
    )


def _listed(pins: Sequence[Pin]) -> str:
    names = ", ".join(f"{pin.name} {pin.version}" for pin in pins[:MAX_NAMED])
    return f"{names} and {len(pins) - MAX_NAMED} more" if len(pins) > MAX_NAMED else names


def _download(missing: Sequence[Pin], lock: Lock, sources: WheelSources, wheelhouse: Path) -> None:
    """Let pip download the missing wheels, with its own progress bar; it replaces damaged ones."""
    pip = pip_command()
    with tempfile.TemporaryDirectory(prefix="kuwa-fetch-") as directory:
        wanted = Path(directory, "requirements.txt")
        wanted.write_text("".join(pin.text() for pin in missing), encoding="utf-8")
        command = [*pip, *_options(lock, sources), "-r", str(wanted), "-d", str(wheelhouse)]
        if subprocess.run(command, stdout=STDERR).returncode:
            raise UsageError(f"pip could not download {_listed(missing)}; above it says why")


def pip_command(python: str = sys.executable) -> list[str]:
    """Return the command that starts this Python's pip in a Python; raises UsageError without it.

    A folder is run, so that the other Python sees pip and no package beside it.
    """
    found = importlib.util.find_spec("pip")
    if found is None or found.origin is None:
        raise UsageError(f"{sys.executable} has no pip: {sys.executable} -m ensurepip adds it")
    return [python, str(Path(found.origin).parent), "--disable-pip-version-check", "--no-input"]


def _options(lock: Lock, sources: WheelSources) -> list[str]:
    """Return pip's options; it derives no older platform tags from those it is given."""
    target, index = lock.target, sources._replace(torch_variant=lock.torch_variant).torch_url
    options = ["download", "--no-deps", "--require-hashes", "--only-binary=:all:"]
    options += ["--python-version", target.python.removesuffix("t")]
    options += ["--implementation", "cp", "--abi", target.abi]
    options += [f"--platform={platform}" for platform in target.platforms]
    options += [f"--find-links={link}" for link in sources.find_links]
    options += ["--extra-index-url", index] if index else []
    return options + (["--no-index"] if sources.no_index else [])
