"""Bring the wheels of a lock together, each with a hash that the lock says."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kuwa_min.errors import UsageError

from .box import Box
from .lock import Lock, Pin
from .resolve import Sources
from .shelf import Found, local_folder, read_shelf, sha256_of

Wheels = dict[Path, str]  # a wheel: its sha256, in hex
STDERR = 2  # where people see the progress of pip; stdout is for what build.py makes
NAMED = 5  # packages in one message


def gather(lock: Lock, sources: Sources, wheelhouse: Path, tell: Callable[[str], None]) -> Wheels:
    """Return the wheel of each pin with its sha256, sorted by file name; raises UsageError.

    The user's own folders come first, then the wheelhouse, which is kept between builds and takes
    what is downloaded. Nothing is copied; where nothing is to be downloaded, no process starts.
    """
    wheelhouse.mkdir(parents=True, exist_ok=True)
    found, missing = _look(lock.pins, lock.box, (*sources.folders, wheelhouse))
    _refuse_strangers(lock, sources, found)
    if missing:
        _refuse_offline(missing, lock.box, sources)
        tell(f"downloading {len(missing)} of {len(lock.pins)} packages")
        _download(missing, lock, sources, wheelhouse)
        more, still = _look(missing, lock.box, [wheelhouse])
        if still:
            raise UsageError(f"pip brought no wheel for {lock.box} of {_listed(still)}")
        found |= more
    return dict(sorted(found.items(), key=lambda wheel: wheel[0].name))


def _look(pins: Sequence[Pin], box: Box, folders: Sequence[Path]) -> tuple[Wheels, list[Pin]]:
    """Find what these folders have of the pins; say what they have not."""
    shelf = read_shelf(folders, box)
    candidates = [shelf.of(pin.name, pin.version) for pin in pins]
    matches = _hashed(list(zip(pins, candidates, strict=True)))
    found = dict(match for match in matches if match)
    return found, [pin for pin, match in zip(pins, matches, strict=True) if not match]


def _hashed(work: Sequence[tuple[Pin, list[Found]]]) -> list[tuple[Path, str] | None]:
    """Hash in threads, beginning with the largest file, so that it is not waited for alone."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        order = sorted(range(len(work)), key=lambda place: -_size(work[place][1]))
        futures = {place: pool.submit(_match, *work[place]) for place in order}
        return [futures[place].result() for place in range(len(work))]


def _size(candidates: Sequence[Found]) -> int:
    return candidates[0].path.stat().st_size if candidates else 0


def _match(pin: Pin, candidates: Sequence[Found]) -> tuple[Path, str] | None:
    """Return the best candidate that the lock knows."""
    for candidate in candidates:
        digest = sha256_of(candidate.path)
        if digest in pin.hashes:
            return candidate.path, digest
    return None


def _refuse_strangers(lock: Lock, sources: Sources, found: Wheels) -> None:
    """Refuse the user's own wheel of a package that the lock has otherwise."""
    shelf = read_shelf(sources.wheels, lock.box)
    for pin in lock.pins:
        own = [one for one in shelf.suitable if one.name == pin.name]
        if own and not any(one.path in found for one in own):
            raise UsageError(_mismatch(pin, (shelf.of(pin.name, pin.version) or own)[0]))


def _refuse_offline(missing: Sequence[Pin], box: Box, sources: Sources) -> None:
    """Refuse what is neither here nor to be downloaded."""
    if not sources.no_index or not all(map(local_folder, sources.find_links)):
        return
    shelf = read_shelf(sources.folders, box)
    for pin in missing:
        for stranger in shelf.of(pin.name, pin.version):
            raise UsageError(_mismatch(pin, stranger))
    places = ", ".join(map(str, sources.folders)) or "no folder at all"
    raise UsageError(f"no wheel for {box} of {_listed(missing)} in {places}: carry it in")


def _mismatch(pin: Pin, found: Found) -> str:
    if str(found.version) != pin.version:
        return f"{found.path} is not {pin.name} {pin.version} of the lock; make another lock"
    expected = pin.hashes[0] if len(pin.hashes) == 1 else f"one of the lock's {len(pin.hashes)}"
    return (
        f"{found.path} is not the file of the lock: its sha256 should be {expected}, it is "
        f"{sha256_of(found.path)}; fetch the file again, or make another lock"
    )


def _listed(pins: Sequence[Pin]) -> str:
    names = ", ".join(f"{pin.name} {pin.version}" for pin in pins[:NAMED])
    return f"{names} and {len(pins) - NAMED} more" if len(pins) > NAMED else names


def _download(missing: Sequence[Pin], lock: Lock, sources: Sources, wheelhouse: Path) -> None:
    """Let pip fetch the missing wheels; it replaces what is damaged, and people see it work."""
    pip = pip_command()
    with tempfile.TemporaryDirectory(prefix="kuwa-gather-") as directory:
        wanted = Path(directory, "requirements.txt")
        wanted.write_text("".join(pin.text() for pin in missing), encoding="utf-8")
        command = [*pip, *_options(lock, sources), "-r", str(wanted), "-d", str(wheelhouse)]
        if subprocess.run(command, stdout=STDERR).returncode:
            raise UsageError(f"pip could not download {_listed(missing)}; above it says why")


def pip_command() -> list[str]:
    """Return how this Python's pip is started; raises UsageError when it has none."""
    if importlib.util.find_spec("pip") is None:
        raise UsageError(f"{sys.executable} has no pip: {sys.executable} -m ensurepip adds it")
    return [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]


def _options(lock: Lock, sources: Sources) -> list[str]:
    """Ask pip for the box's wheels; it knows no older platform than those it is told."""
    box, index = lock.box, sources._replace(torch_variant=lock.torch_variant).torch_url
    return [
        *("download", "--no-deps", "--require-hashes", "--only-binary=:all:"),
        *("--python-version", box.python.removesuffix("t")),
        *("--implementation", "cp", "--abi", box.abi),
        *(part for platform in box.platforms for part in ("--platform", platform)),
        *(part for link in sources.find_links for part in ("--find-links", link)),
        *(["--extra-index-url", index] if index else []),
        *(["--no-index"] if sources.no_index else []),
    ]
