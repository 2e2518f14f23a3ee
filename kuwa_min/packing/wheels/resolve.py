"""Resolve versions with uv, for the target instead of this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from packaging.utils import canonicalize_name

from kuwa_min.bundle.versions import python_minor
from kuwa_min.errors import UsageError

from .lock import Lock, Pin, parse_requirement, read_pins
from .target import TargetPython
from .wheelhouse import Candidates, WheelCandidate, find_candidates, local_folder, sha256_of

PYTORCH = "https://download.pytorch.org/whl"
OF_TORCH = ("torch", "torchvision", "torchaudio")  # are built for one variant of torch
OUTPUT = "requirements.txt"
WHEELS_ONLY = ("--only-binary", ":all:")
UV_OUTPUT = ("--generate-hashes", "--no-header", "--no-annotate", "--quiet", "--color", "never")
UV_OPTIONS = (*UV_OUTPUT, "--no-progress", "--no-python-downloads")
OURS = ("kuwa-executor", "kuwa-min")  # what each file is, and packages of backends may require
CLEARED = ("UV_NO_SOURCES", "UV_TORCH_BACKEND", "UV_WORKING_DIR", "UV_PROJECT")
LONGEST = 700  # characters of uv's error message that are shown


class NoSolution(UsageError):
    """The indexes were asked, and have nothing that satisfies the requirements."""


class WheelSources(NamedTuple):
    """Where wheels come from, and which versions are preferred to the newest.

    A wheel of --wheels is taken whatever the indexes have.
    """

    wheels: tuple[Path, ...] = ()  # folders: --wheels
    find_links: tuple[str, ...] = ()  # folders or addresses, as pip takes them
    no_index: bool = False
    torch_index: str = PYTORCH
    torch_variant: str = ""  # "cpu", "cu130": a path below torch_index; "" for the usual index
    preferred: tuple[str, ...] = ()  # "torch==2.13.0": versions to take where they suit

    @property
    def torch_url(self) -> str:
        """Return the URL of the index to take torch from; "" for the usual index."""
        if not self.torch_variant or self.no_index:
            return ""
        return f"{self.torch_index.rstrip('/')}/{self.torch_variant}"

    @property
    def folders(self) -> tuple[Path, ...]:
        """Return all local folders of wheels, those of --wheels first."""
        links = (local_folder(link) for link in self.find_links)
        return (*self.wheels, *(folder for folder in links if folder))


def resolve(
    backend: str,
    requirements: Iterable[str],
    target: TargetPython,
    sources: WheelSources,
    host_packages: Iterable[str] = (),
) -> Lock:
    """Resolve the requirements for a target; raises UsageError if they cannot be satisfied."""
    host = tuple(sorted({_name(one) for one in host_packages}))
    needed = [one for one in requirements if _name(one) not in host]
    if sources.torch_variant and "torch" not in map(_name, needed):
        raise UsageError(f"{backend} takes no torch along: leave the choice of its variant out")
    candidates = find_candidates(sources.wheels, target)
    own = {**_torch_without_index(sources, target), **candidates.newest()}
    index = "" if "torch" in own else sources.torch_url
    _check_variant(own, sources.torch_variant)
    with tempfile.TemporaryDirectory(prefix="kuwa-resolve-") as directory:
        folder = Path(directory)
        folder.joinpath("pyproject.toml").write_text(_project(backend, needed, index), "utf-8")
        _write_lines(folder / "pins.txt", (f"{one.name}=={one.version}" for one in own.values()))
        _write_lines(folder / "absent.txt", (*host, *OURS))
        files = ("--constraints", "pins.txt", "--excludes", "absent.txt")
        text = _run_uv([*WHEELS_ONLY, *files], folder, target, sources)
    pins = tuple(
        _of_own(pin, own, candidates, target) for pin in read_pins(text, "the answer of uv")
    )
    return Lock(backend, target, pins, sources.torch_variant, host)


def torch_version(requirement: str, target: TargetPython, sources: WheelSources) -> str:
    """Return the version of torch that a variant's index has; raises NoSolution without one."""
    own = {
        **_torch_without_index(sources, target),
        **find_candidates(sources.wheels, target).newest(),
    }
    if "torch" in own:
        return str(own["torch"].version)
    with tempfile.TemporaryDirectory(prefix="kuwa-resolve-") as directory:
        folder = Path(directory)
        project = _project("torch", [requirement], sources.torch_url)
        folder.joinpath("pyproject.toml").write_text(project, "utf-8")
        text = _run_uv([*WHEELS_ONLY, "--no-deps"], folder, target, sources)
        (pin,) = read_pins(text, "the answer of uv")
        return pin.version


def choose_sdist(requirement: str, target: TargetPython, sources: WheelSources) -> Pin:
    """Pin the preferred or newest source of a package; nothing of it is run; raises UsageError."""
    name = _name(requirement)
    with tempfile.TemporaryDirectory(prefix="kuwa-resolve-") as directory:
        folder = Path(directory)
        folder.joinpath("pyproject.toml").write_text(_project(name, [requirement], ""), "utf-8")
        alone = ["--no-deps", "--no-binary", name]
        (pin,) = read_pins(_run_uv(alone, folder, target, sources), "the answer of uv")
    if pin.hashes:
        return pin
    local = _local_sdists(pin, sources.folders)  # which uv does not hash
    if not local:
        raise UsageError(
            f"no index here states the sha256 of {name} {pin.version}: "
            f"fetch its .tar.gz, and give its folder by --find_links DIR"
        )
    return pin._replace(hashes=tuple(sorted(map(sha256_of, local))))


def _local_sdists(pin: Pin, folders: Iterable[Path]) -> list[Path]:
    names = f"{pin.name.replace('-', '[-_.]')}-{pin.version}.tar.gz"
    return [path for folder in folders for path in sorted(folder.glob(names))]


def _name(requirement: str) -> str:
    return canonicalize_name(parse_requirement(requirement).name)


def _torch_without_index(sources: WheelSources, target: TargetPython) -> dict[str, WheelCandidate]:
    """Return torch of the local version asked for, which without an index only folders have."""
    variant = sources.torch_variant
    if not (variant and sources.no_index):
        return {}
    found = find_candidates(sources.folders, target).newest(variant).get("torch")
    if found is None:
        places = ", ".join(map(str, sources.folders)) or "no folder"
        raise NoSolution(f"no torch+{variant} for {target} in {places}: carry its wheel in")
    return {"torch": found}


def _check_variant(own: Mapping[str, WheelCandidate], variant: str) -> None:
    local = own["torch"].version.local if "torch" in own else None
    if variant and local and local != variant:
        raise UsageError(f"{own['torch'].path} is not torch for {variant}: leave one of them out")


def _project(backend: str, needed: Sequence[str], index: str) -> str:
    """Return the pyproject.toml that uv resolves; index is for torch, and what is built with it."""
    lines = ["[project]", f'name = "kuwa-{backend}"', 'version = "0"']
    lines += [f"dependencies = {json.dumps([*needed])}", "[tool.uv]"]  # uv looks no further for one
    if index:
        named = [one for one in OF_TORCH if one in map(_name, needed)]
        lines += ["[tool.uv.sources]", *(f'{one} = {{ index = "kuwa-torch" }}' for one in named)]
        lines += ["[[tool.uv.index]]", 'name = "kuwa-torch"', f"url = {json.dumps(index)}"]
        lines += ["explicit = true"]
    return "\n".join(lines) + "\n"


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _options(target: TargetPython, sources: WheelSources) -> list[str]:
    links = [*map(str, sources.wheels), *sources.find_links]
    folders = ((link, local_folder(link)) for link in links)
    absolute = [str(folder.absolute()) if folder else link for link, folder in folders]
    options = [*UV_OPTIONS]
    for file in os.environ.get("UV_CONSTRAINT", "").split():  # which an option replaces
        options += ["--constraints", str(Path(file).absolute())]
    options += ["--python", _interpreter(target)]
    options += ["--python-version", target.python.removesuffix("t")]
    options += ["--python-platform", target.uv_platform]
    options += [f"--find-links={link}" for link in absolute]
    return options + (["--no-index"] if sources.no_index else [])


def _interpreter(target: TargetPython) -> str:
    """Return the Python that uv takes the ABI from: --python-version does not change the GIL."""
    same_threading = python_minor().endswith("t") == target.python.endswith("t")
    found = sys.executable if same_threading else shutil.which(f"python{target.python}")
    if not found:
        raise UsageError(
            f"to build for Python {target.python}, run build.py with python{target.python}"
        )
    return found


def _run_uv(
    options: Sequence[str], folder: Path, target: TargetPython, sources: WheelSources
) -> str:
    """Run uv in the folder of a pyproject.toml, so that it finds no other project's settings.

    uv prefers the versions that its output file has already.
    """
    known = {name: value for name, value in os.environ.items() if name not in CLEARED}
    _write_lines(folder / OUTPUT, sources.preferred)
    command = [_uv(), "pip", "compile", "pyproject.toml", "--output-file", OUTPUT, *options]
    command += _options(target, sources)
    done = subprocess.run(command, cwd=folder, env=known, capture_output=True, text=True)
    if done.returncode:
        kind = NoSolution if "No solution found" in done.stderr else UsageError
        raise kind(explain(done.stderr, target))
    return folder.joinpath(OUTPUT).read_text(encoding="utf-8")


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if not found:
        raise UsageError("uv is missing: pip install uv==0.13.9 (or run make)")
    return found


def explain(stderr: str, target: TargetPython) -> str:
    """Shorten uv's error output to one line: the package without wheels, or its reasons."""
    bare = re.findall(r"Wheels are required for `([^`]+)`", stderr)
    if bare:
        return (
            f"{', '.join(dict.fromkeys(bare))}: the index has no wheel for {target}, and nothing "
            "is compiled here; build or fetch the wheel and give its folder: --wheels DIR"
        )
    kept = re.sub(r"(?m)^error: (No solution found.*\n)?|^For more information.*$", "", stderr)
    kept = re.sub(r"^ *cause: |(?m:^hint: )", "", kept).replace("we can conclude that", "so")
    kept = kept.replace("`--find-links <uri>`", "--find_links DIR")
    line = " ".join(re.sub(r"\n *cause: ", ": ", kept).split())
    return f"uv finds no packages for {target}: {line[:LONGEST]}"


def _of_own(
    pin: Pin, own: Mapping[str, WheelCandidate], candidates: Candidates, target: TargetPython
) -> Pin:
    """Pin a package that --wheels has to the hash of that file."""
    if pin.name in candidates.others:
        raise UsageError(
            f"{candidates.others[pin.name]} is not for {target}, and {pin.name} is needed there: "
            "add a wheel that is, or take this one away"
        )
    return pin._replace(hashes=(sha256_of(own[pin.name].path),)) if pin.name in own else pin
